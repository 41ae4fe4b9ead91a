"""Findings for simulated machines with various problems."""

import re

import pytest

from fasticcl.doctor.examine import judge
from fasticcl.doctor.facts import Gpu, ReadSpeed
from fasticcl.doctor.reference_image import COLORS
from tests.support.doctor_facts import (
    GIB,
    H100,
    LAPTOP,
    with_limits,
    with_nvidia,
    with_packages,
    with_probes,
    with_shards,
)

NMS = "RuntimeError: operator torchvision::nms does not exist"
CPU_TORCH = {"version": "2.15.0+cpu", "cuda": ""}
CUDA_12 = {"version": "2.15.0+cu126", "cuda": "12.6"}
NO_LIBRARY = "OSError: libcudart.so.13: cannot open shared object file: No such file or directory"
NO_MODULE = "ModuleNotFoundError: No module named 'torch'"
EIGHT_GPUS = tuple(Gpu("NVIDIA H200", 143771) for _ in range(8))
BLACK = [(0, 0, 0), *COLORS[1:]]
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"

# facts, (name, status) of the expected finding, pattern of its description, pattern of its advice
PROBLEMS = {
    "torch for the CPU, torchvision from PyPI": (
        with_packages(with_probes(torch=CPU_TORCH, torchvision=NMS), torch="2.15.0+cpu"),
        ("torchvision", "error"),
        r"0\.29\.2 does not import: torch 2\.15\.0\+cpu is built for the CPU, .* for CUDA .*nms",
        r"pip install 'torch>=2\.11' 'torchvision>=0\.26' --index-url \S+/whl/cpu$",
    ),
    "torch for CUDA, torchvision for the CPU": (
        with_packages(with_probes(torchvision=NMS), torchvision="0.29.2+cpu"),
        ("torchvision", "error"),
        r"torch 2\.15\.0\+cu132 is built for CUDA 13\.2, but torchvision is for the CPU",
        r"pip uninstall -y torch torchvision && pip install 'torch>=2\.11' 'torchvision>=0\.26'$",
    ),
    "torch and torchvision for different CUDA versions": (
        with_packages(
            with_probes(torch=CUDA_12, torchvision="RuntimeError: different"), torchvision="0.29.2+cu132"
        ),
        ("torchvision", "error"),
        r"0\.29\.2\+cu132 does not import: torch 2\.15\.0\+cu126 is built for another CUDA",
        r"Install both from the same index",
    ),
    "torchvision for a newer torch": (
        with_probes(torch={"version": "2.12.0+cu130", "cuda": "13.0"}, torchvision=NMS),
        ("torchvision", "error"),
        r"built for torch >=2\.14\.0 while torch 2\.12\.0\+cu130 is installed",
        r"pip install",
    ),
    "torchvision for a newer torch, imports anyway": (
        with_probes(
            torch={"version": "2.12.0+cu130", "cuda": "13.0"}, torchvision={"version": "0.29.2+cu130"}
        ),
        ("torchvision", "warning"),
        r"0\.29\.2\+cu130 imports, but it is built for torch >=2\.14\.0 while torch 2\.12\.0",
        r"pip install",
    ),
    "torch and torchvision for different CUDA versions, import anyway": (
        with_probes(torchvision={"version": "0.29.2+cu126"}),
        ("torchvision", "warning"),
        r"0\.29\.2\+cu126 imports, but torch 2\.15\.0\+cu132 is built for another CUDA",
        r"pip install",
    ),
    "torch with a missing library": (
        with_probes(torch=NO_LIBRARY),
        ("torch", "error"),
        r"2\.15\.0 does not import: OSError: libcudart\.so\.13",
        r"--force-reinstall .*LD_LIBRARY_PATH",
    ),
    "torch crashes": (
        with_packages(with_probes(torch="the process was killed by SIGSEGV"), torch="2.15.0+cpu"),
        ("torch", "error"),
        r"2\.15\.0\+cpu does not import: the process was killed by SIGSEGV",
        r"--force-reinstall 'torch>=2\.11' 'torchvision>=0\.26' --index-url \S+/cpu$",
    ),
    "no torch": (
        with_packages(with_probes(torch=NO_MODULE), torch=None),
        ("torch", "error"),
        r"not installed",
        r"^pip install 'torch>=2\.11' 'torchvision>=0\.26'$",
    ),
    "torchvision next to a broken torch": (
        with_probes(torch=NO_LIBRARY, torchvision=NO_LIBRARY),
        ("torchvision", "warning"),
        r"0\.29\.2, not tested because torch does not import",
        r"Fix torch first",
    ),
    "old torch": (
        with_probes(torch={"version": "2.9.1+cu128", "cuda": "12.8"}),
        ("torch", "error"),
        r"2\.9\.1\+cu128.*needs 2\.11 or newer",
        r"pip install --upgrade 'torch>=2\.11'",
    ),
    "two DALI packages": (
        with_packages(nvidia_dali_cuda130="2.4.0"),
        ("DALI", "error"),
        r"nvidia-dali-cuda120 2\.4\.0 and nvidia-dali-cuda130 2\.4\.0 are installed into the same folder",
        r"pip uninstall -y nvidia-dali-cuda120 nvidia-dali-cuda130 && pip install 'nvidia-dali-cuda120>=2",
    ),
    "a placeholder instead of DALI": (
        with_packages(with_probes(dali=NO_MODULE), nvidia_dali_cuda120=None, nvidia_dali="0.0.1.dev5"),
        ("DALI", "error"),
        r"nvidia-dali is a placeholder",
        r"pip uninstall -y nvidia-dali && pip install 'nvidia-dali-cuda120>=2\.4'",
    ),
    "a placeholder with the name of a real package": (
        with_packages(
            with_probes(dali=NO_MODULE), nvidia_dali_cuda120=None, nvidia_dali_cuda110="0.0.1.dev5"
        ),
        ("DALI", "error"),
        r"nvidia-dali-cuda110 is a placeholder",
        r"pip uninstall -y nvidia-dali-cuda110 && ",
    ),
    "a placeholder next to DALI": (
        with_packages(nvidia_dali="1.0"),
        ("DALI", "warning"),
        r"nvidia-dali-cuda120 2\.4\.0 and nvidia-dali 1\.0: nvidia-dali is a placeholder",
        r"pip uninstall -y nvidia-dali-cuda120 nvidia-dali && ",
    ),
    "no DALI": (
        with_packages(with_probes(dali=NO_MODULE), nvidia_dali_cuda120=None),
        ("DALI", "error"),
        r"not installed",
        r"^pip install 'nvidia-dali-cuda120>=2\.4'$",
    ),
    "old DALI": (
        with_packages(with_probes(dali={"version": "1.50.0"}), nvidia_dali_cuda120="1.50.0"),
        ("DALI", "error"),
        r"1\.50\.0.*needs 2\.4 or newer",
        r"pip install --upgrade 'nvidia-dali-cuda120>=2\.4'",
    ),
    "driver 525 with torch for CUDA 13": (
        with_nvidia(with_probes(H100, torch_on_gpu={"gpus": []}), driver="525.60.13", cuda=12),
        ("driver", "error"),
        r"525\.60\.13 supports CUDA 12, but torch is built for CUDA 13",
        r"Update the driver to 580 or newer, or install a torch built for CUDA 12",
    ),
    "a driver too old for DALI only": (
        with_nvidia(with_probes(H100, torch=CUDA_12 | {"cuda": "11.8"}), driver="470.82", cuda=11),
        ("driver", "error"),
        r"supports CUDA 11, but DALI is built for CUDA 12",
        r"525 or newer",
    ),
    "driver updated without a restart": (
        with_nvidia(gpus=(), smi_error=MISMATCH),
        ("driver", "error"),
        r"580\.65\.06, but nvidia-smi fails: Failed to initialize NVML",
        r"Restart the machine",
    ),
    "a GPU without a driver": (
        with_nvidia(LAPTOP, pci_devices=2),
        ("driver", "warning"),
        r"not installed, although the machine has 2 NVIDIA GPUs",
        r"driver 580 or newer.*--gpus all",
    ),
    "a container without libcuda": (with_nvidia(cuda=0), ("driver", "error"), r"libcuda", r"--gpus all"),
    "a GPU that torch does not support": (
        with_probes(H100, torch_on_gpu="AcceleratorError: no kernel image is available"),
        ("GPU", "error"),
        r"H100.*80 GiB: torch cannot compute: .*no kernel image",
        r"--device cpu",
    ),
    "a GPU and torch for the CPU": (
        with_probes(H100, torch=CPU_TORCH, torch_on_gpu={"gpus": []}),
        ("GPU", "warning"),
        r"not used because torch is built for the CPU",
        r"pip install torch torchvision",
    ),
    "all GPUs hidden by CUDA_VISIBLE_DEVICES": (
        with_nvidia(with_probes(H100, torch_on_gpu={"gpus": []}), visible_devices=""),
        ("GPU", "warning"),
        r"sees 0 of NVIDIA H100.*CUDA_VISIBLE_DEVICES is ''",
        r"unset CUDA_VISIBLE_DEVICES",
    ),
    "a GPU that torch does not see": (
        with_probes(H100, torch_on_gpu={"gpus": []}),
        ("GPU", "error"),
        r"torch sees none",
        r"driver",
    ),
    "nvJPEG cannot be queried": (
        with_probes(H100, jpeg_engine="RuntimeError: nvJPEG returned status 6"),
        ("JPEG engine", "warning"),
        r"status 6",
        r"hw_decoder_load",
    ),
    "a CPU quota of 1.5 cores": (
        with_limits(cores=64, torch_threads=64, cpu_quota=1.5),
        ("cores", "warning"),
        r"64, some CPU, the control group limits CPU time to 1\.5 cores, .* 64 threads",
        r"export OMP_NUM_THREADS=2$",
    ),
    "a CPU quota of one core": (
        with_limits(cores=8, torch_threads=1, cpu_quota=1.0),
        ("cores", "warning"),
        r"limits CPU time to 1 core$",
        r"at least two",
    ),
    "one core": (
        with_limits(cores=1, torch_threads=1),
        ("cores", "warning"),
        r"1, some CPU",
        r"at least two",
    ),
    "threads that spin": (
        with_limits(idle_threads_sleep=False),
        ("cores", "warning"),
        r"16, some CPU, but idle threads of torch spin",
        r"Unset OMP_WAIT_POLICY",
    ),
    "two cores and a GPU": (
        with_limits(H100, cores=2, torch_threads=2),
        ("cores", "warning"),
        r"2, some CPU, fewer than 4 for the GPU$",
        r"Request more",
    ),
    "two cores per GPU": (
        with_nvidia(gpus=EIGHT_GPUS),
        ("cores", "warning"),
        r"fewer than 4 for each of 8 GPUs",
        r"Request more",
    ),
    "a memory limit of 1 GiB": (
        with_limits(memory_limit=GIB),
        ("memory", "warning"),
        r"100\.0 GiB free of 128\.0 GiB, the control group limits it to 1\.0 GiB",
        r"--batch-size",
    ),
    "little free memory": (
        with_limits(free_memory=GIB),
        ("memory", "warning"),
        r"1\.0 GiB free",
        r"Free or request",
    ),
    "Docker's default shared memory": (
        with_limits(shared_memory=64 * 2**20),
        ("shared memory", "warning"),
        r"64 MiB in /dev/shm, too little to train on several GPUs",
        r"--shm-size=1g or --ipc=host",
    ),
    "no shared memory": (
        with_limits(shared_memory=0),
        ("shared memory", "warning"),
        r"no /dev/shm",
        r"--ipc=host",
    ),
    "few open files": (
        with_limits(open_files=256),
        ("open files", "warning"),
        r"up to 256",
        r"ulimit -Hn 65536",
    ),
    "fewer open files than shards": (
        with_shards(with_limits(H100, open_files=1024), shards=1000),
        ("open files", "error"),
        r"up to 1,024, too few for 1,000 shards",
        r"--shard-size",
    ),
    "a decoder with wrong colours": (
        with_probes(dali_decoding={"colors": BLACK}),
        ("decode: DALI on the CPU", "error"),
        r"wrong by 220 of 256",
        r"Do not train with this",
    ),
    "a decoder that fails": (
        with_probes(H100, dali_decoding_on_gpu="RuntimeError: CUDA driver version is insufficient"),
        ("decode: DALI on the GPU", "error"),
        r"fails: RuntimeError: CUDA driver",
        r"--device cpu",
    ),
    "a GPU that crashes on regions": (
        with_probes(H100, dali_regions_on_gpu="the process was killed by SIGSEGV"),
        ("decode: regions with DALI on the GPU", "error"),
        r"fails: the process was killed by SIGSEGV",
        r"^Train with --set data\.decode_regions=false",
    ),
    "a GPU that decodes wrong regions": (
        with_probes(H100, dali_regions_on_gpu={"colors": BLACK}),
        ("decode: regions with DALI on the GPU", "error"),
        r"wrong by 220 of 256",
        r"^Train with --set data\.decode_regions=false",
    ),
    "torch and DALI crash in one process": (
        with_probes(joint_decoding="the process was killed by SIGABRT"),
        ("decode: all in one process", "error"),
        r"SIGABRT",
        r"issue",
    ),
    "damaged shards": (
        with_shards(problem="train/index.npy does not match the manifest", read_speed=None),
        ("shards", "error"),
        r"does not match",
        r"fasticcl verify",
    ),
    "a slow disk": (
        with_shards(read_speed=ReadSpeed(30_000_000, 300, 1.0, True)),
        ("disk", "warning"),
        r"^30 MB/s, 300 images/s in random order$",
        r"SSD.*--cache host",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS, ids=str)
def test_problem_is_reported_with_advice(case):
    facts, (name, status), description, advice = PROBLEMS[case]
    (finding,) = (finding for finding in judge(facts) if finding.name == name)
    assert finding.status == status
    assert re.search(description, finding.found)
    assert re.search(advice, finding.advice)


@pytest.mark.parametrize("case", PROBLEMS, ids=str)
def test_only_warnings_and_errors_have_advice(case):
    for finding in judge(PROBLEMS[case][0]):
        assert bool(finding.advice) == (finding.status != "ok")


def statuses(facts):
    return {finding.name: finding.status for finding in judge(facts)}


CPU_PACKAGES = with_packages(
    with_probes(torch=CPU_TORCH, torchvision={"version": "0.29.2+cpu"}), torchvision="0.29.2+cpu"
)


@pytest.mark.parametrize(
    "facts",
    [
        H100,
        LAPTOP,
        CPU_PACKAGES,
        with_probes(H100, torch=CUDA_12, torchvision={"version": "0.29.2+cu126"}),  # on a CUDA 13 driver
        with_nvidia(driver="525.60.13"),  # with the compatibility package, whose libcuda supports CUDA 13
        with_nvidia(with_limits(H100, cpu_quota=4.0, torch_threads=4), visible_devices="0"),
        with_probes(H100, jpeg_engine={"engines": 0, "cores": 0}),
        with_packages(nvidia_dali_tf_plugin_cuda120="2.4.0"),
        with_shards(read_speed=ReadSpeed(2_400_000, 20_000, 1.0, True)),  # many small images, as in CIFAR
        with_shards(read_speed=ReadSpeed(100_000, 350, 0.01, False)),
    ],
)
def test_machine_without_problems_is_ok(facts):
    assert set(statuses(facts).values()) == {"ok"}


def test_broken_torch_does_not_cause_further_errors():
    probes = dict.fromkeys(("torch", "torchvision"), NO_MODULE)
    status_of = statuses(with_probes(H100, **probes))
    assert [name for name, status in status_of.items() if status == "error"] == ["torch"]
    assert status_of["decode: DALI on the CPU"] == "ok"
    assert not {"GPU", "decode: all in one process"} & set(status_of)


def test_decode_regions_is_no_advice_if_whole_images_fail_too():
    failed = "the process was killed by SIGSEGV"
    findings = judge(with_probes(H100, dali_decoding_on_gpu=failed, dali_regions_on_gpu=f"not run: {failed}"))
    assert [each.name for each in findings if each.status == "error"] == ["decode: DALI on the GPU"]


def test_torch_and_dali_may_use_different_cuda_versions():
    (finding,) = (finding for finding in judge(LAPTOP) if finding.name == "CUDA pairing")
    assert finding.found.startswith("torch is built for CUDA 13, DALI for CUDA 12")


def test_read_speed_of_cached_images_is_qualified():
    read_speed = ReadSpeed(300_000_000, 3000, 1.0, cold=False)
    (finding,) = (finding for finding in judge(with_shards(read_speed=read_speed)) if finding.name == "disk")
    assert "may have come from the page cache" in finding.found


def test_bfloat16_of_a_cpu_is_reported_unless_a_gpu_trains():
    (finding,) = (each for each in judge(with_limits(bfloat16=("amx_bf16",))) if each.name == "bfloat16")
    assert finding.status == "ok"
    assert "(amx_bf16). The default on a CPU is float32" in finding.found
    assert "--set engine.precision=bfloat16" in finding.found
    assert "bfloat16" not in statuses(LAPTOP)
    assert "bfloat16" not in statuses(with_limits(H100, bfloat16=("avx512_bf16",)))
