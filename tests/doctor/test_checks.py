"""What doctor says of machines in every state of disorder, told to it as facts."""

import re

import pytest

from fasticcl.doctor.examine import judge
from fasticcl.doctor.facts import Card, Reading
from fasticcl.doctor.test_picture import COLORS
from tests.support.machines import GIB, H100, LAPTOP, driven, holding, installed, limited, tried

NMS = "RuntimeError: operator torchvision::nms does not exist"
CPU_TORCH = {"version": "2.15.0+cpu", "cuda": ""}
CUDA_12 = {"version": "2.15.0+cu126", "cuda": "12.6"}
NO_LIBRARY = "OSError: libcudart.so.13: cannot open shared object file: No such file or directory"
NO_MODULE = "ModuleNotFoundError: No module named 'torch'"
TWO = {"nvidia_dali_cuda130": "2.4.0"}
EIGHT = tuple(Card("NVIDIA H200", 143771) for _ in range(8))
BLACK = [(0, 0, 0), *COLORS[1:]]
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"

# facts, what is named, its status, a pattern of what is found, a pattern of what to do
DISORDER = {
    "CPU torch, torchvision of the index": (
        installed(tried(torch=CPU_TORCH, torchvision=NMS), torch="2.15.0+cpu"),
        ("torchvision", "error"),
        r"0\.29\.2 does not import: torch 2\.15\.0\+cpu is built for the CPU, .* for CUDA .*nms",
        r"pip install 'torch>=2\.11' 'torchvision>=0\.26' --index-url \S+/whl/cpu$",
    ),
    "CUDA torch, CPU torchvision": (
        installed(tried(torchvision=NMS), torchvision="0.29.2+cpu"),
        ("torchvision", "error"),
        r"torch 2\.15\.0\+cu132 is built for CUDA 13\.2, and this torchvision for the CPU",
        r"pip uninstall -y torch torchvision && pip install 'torch>=2\.11' 'torchvision>=0\.26'$",
    ),
    "torch and torchvision of two CUDAs": (
        installed(tried(torch=CUDA_12, torchvision="RuntimeError: different"), torchvision="0.29.2+cu132"),
        ("torchvision", "error"),
        r"0\.29\.2\+cu132 does not import: torch 2\.15\.0\+cu126 is built for another CUDA",
        r"Install both from one place",
    ),
    "torchvision for a newer torch": (
        tried(torch={"version": "2.12.0+cu130", "cuda": "13.0"}, torchvision=NMS),
        ("torchvision", "error"),
        r"built for torch >=2\.14\.0, and here is 2\.12\.0\+cu130",
        r"pip install",
    ),
    "torchvision for a newer torch that imports all the same": (
        tried(torch={"version": "2.12.0+cu130", "cuda": "13.0"}, torchvision={"version": "0.29.2+cu130"}),
        ("torchvision", "warning"),
        r"0\.29\.2\+cu130 imports, but it was built for torch >=2\.14\.0, and here is 2\.12\.0",
        r"pip install",
    ),
    "torch and torchvision of two CUDAs that import all the same": (
        tried(torchvision={"version": "0.29.2+cu126"}),
        ("torchvision", "warning"),
        r"0\.29\.2\+cu126 imports, but torch 2\.15\.0\+cu132 is built for another CUDA",
        r"pip install",
    ),
    "torch without a library": (
        tried(torch=NO_LIBRARY),
        ("torch", "error"),
        r"2\.15\.0 does not import: OSError: libcudart\.so\.13",
        r"--force-reinstall .*LD_LIBRARY_PATH",
    ),
    "torch crashes": (
        installed(tried(torch="the process was ended by SIGSEGV"), torch="2.15.0+cpu"),
        ("torch", "error"),
        r"2\.15\.0\+cpu does not import: the process was ended by SIGSEGV",
        r"--force-reinstall 'torch>=2\.11' 'torchvision>=0\.26' --index-url \S+/cpu$",
    ),
    "no torch": (
        installed(tried(torch=NO_MODULE), torch=None),
        ("torch", "error"),
        r"not installed",
        r"^pip install 'torch>=2\.11' 'torchvision>=0\.26'$",
    ),
    "torchvision beside a broken torch": (
        tried(torch=NO_LIBRARY, torchvision=NO_LIBRARY),
        ("torchvision", "warning"),
        r"0\.29\.2, not tried: torch does not import",
        r"Mend torch first",
    ),
    "old torch": (
        tried(torch={"version": "2.9.1+cu128", "cuda": "12.8"}),
        ("torch", "error"),
        r"2\.9\.1\+cu128.*needs 2\.11 or newer",
        r"pip install --upgrade 'torch>=2\.11'",
    ),
    "two DALIs": (
        installed(**TWO),
        ("DALI", "error"),
        r"nvidia-dali-cuda120 2\.4\.0 and nvidia-dali-cuda130 2\.4\.0 lie in one folder",
        r"pip uninstall -y nvidia-dali-cuda120 nvidia-dali-cuda130 && pip install 'nvidia-dali-cuda120>=2",
    ),
    "a placeholder instead of DALI": (
        installed(tried(dali=NO_MODULE), nvidia_dali_cuda120=None, nvidia_dali="0.0.1.dev5"),
        ("DALI", "error"),
        r"nvidia-dali is a placeholder",
        r"pip uninstall -y nvidia-dali && pip install 'nvidia-dali-cuda120>=2\.4'",
    ),
    "a placeholder with a right name": (
        installed(tried(dali=NO_MODULE), nvidia_dali_cuda120=None, nvidia_dali_cuda110="0.0.1.dev5"),
        ("DALI", "error"),
        r"nvidia-dali-cuda110 is a placeholder",
        r"pip uninstall -y nvidia-dali-cuda110 && ",
    ),
    "a placeholder beside DALI": (
        installed(nvidia_dali="1.0"),
        ("DALI", "warning"),
        r"nvidia-dali-cuda120 2\.4\.0 and nvidia-dali 1\.0: nvidia-dali is a placeholder",
        r"pip uninstall -y nvidia-dali-cuda120 nvidia-dali && ",
    ),
    "no DALI": (
        installed(tried(dali=NO_MODULE), nvidia_dali_cuda120=None),
        ("DALI", "error"),
        r"not installed",
        r"^pip install 'nvidia-dali-cuda120>=2\.4'$",
    ),
    "old DALI": (
        installed(tried(dali={"version": "1.50.0"}), nvidia_dali_cuda120="1.50.0"),
        ("DALI", "error"),
        r"1\.50\.0.*needs 2\.4 or newer",
        r"pip install --upgrade 'nvidia-dali-cuda120>=2\.4'",
    ),
    "driver 525 under CUDA 13": (
        driven(tried(H100, torch_computes={"gpus": []}), driver="525.60.13", cuda=12),
        ("driver", "error"),
        r"525\.60\.13 serves CUDA 12, too old for torch, built for CUDA 13",
        r"Update the driver to 580 or newer, or install a torch built for CUDA 12",
    ),
    "a driver too old for DALI alone": (
        driven(tried(H100, torch=CUDA_12 | {"cuda": "11.8"}), driver="470.82", cuda=11),
        ("driver", "error"),
        r"too old for DALI, built for CUDA 12",
        r"525 or newer",
    ),
    "driver updated, machine not restarted": (
        driven(cards=(), trouble=MISMATCH),
        ("driver", "error"),
        r"580\.65\.06, but nvidia-smi says: Failed to initialize NVML",
        r"Restart the machine",
    ),
    "a card without a driver": (
        driven(LAPTOP, on_bus=2),
        ("driver", "warning"),
        r"none, though the machine has 2 NVIDIA cards",
        r"driver 580 or newer.*--gpus all",
    ),
    "a container without libcuda": (driven(cuda=0), ("driver", "error"), r"libcuda", r"--gpus all"),
    "a GPU that torch was not built for": (
        tried(H100, torch_computes="AcceleratorError: no kernel image is available"),
        ("GPU", "error"),
        r"H100.*80 GiB: torch cannot compute: .*no kernel image",
        r"--device cpu",
    ),
    "a GPU and a torch for the CPU": (
        tried(H100, torch=CPU_TORCH, torch_computes={"gpus": []}),
        ("GPU", "warning"),
        r"unused: torch is built for the CPU",
        r"pip install torch torchvision",
    ),
    "all GPUs hidden": (
        driven(tried(H100, torch_computes={"gpus": []}), visible=""),
        ("GPU", "warning"),
        r"sees 0 of NVIDIA H100.*CUDA_VISIBLE_DEVICES is ''",
        r"unset CUDA_VISIBLE_DEVICES",
    ),
    "a GPU that torch does not see": (
        tried(H100, torch_computes={"gpus": []}),
        ("GPU", "error"),
        r"torch sees none",
        r"driver",
    ),
    "nvJPEG that does not say": (
        tried(H100, jpeg_engine="RuntimeError: nvJPEG answers with status 6"),
        ("JPEG engine", "warning"),
        r"status 6",
        r"hw_decoder_load",
    ),
    "a quota of 1.5 cores": (
        limited(cores=64, torch_threads=64, quota=1.5),
        ("cores", "warning"),
        r"64, some CPU, the control group grants the time of 1\.5; .* 64 threads",
        r"export OMP_NUM_THREADS=2$",
    ),
    "one core": (limited(cores=1, torch_threads=1), ("cores", "warning"), r"1, some CPU", r"at least two"),
    "two cores a GPU": (
        driven(cards=EIGHT),
        ("cores", "warning"),
        r"fewer than 4 for each of 8 GPUs",
        r"Ask for more",
    ),
    "a memory limit of 1 GiB": (
        limited(memory_limit=GIB),
        ("memory", "warning"),
        r"100\.0 GiB free of 128\.0 GiB, of which the control group grants 1\.0 GiB",
        r"--batch-size",
    ),
    "a full memory": (limited(memory_free=GIB), ("memory", "warning"), r"1\.0 GiB free", r"Make room"),
    "shared memory as Docker gives it": (
        limited(shared=64 * 2**20),
        ("shared memory", "warning"),
        r"64 MiB in /dev/shm; enough for one process",
        r"--shm-size=1g or --ipc=host",
    ),
    "no shared memory": (limited(shared=0), ("shared memory", "warning"), r"no /dev/shm", r"--ipc=host"),
    "few open files": (limited(open_files=256), ("open files", "warning"), r"up to 256", r"ulimit -Hn 65536"),
    "fewer open files than shards": (
        holding(limited(H100, open_files=1024), shards=1000),
        ("open files", "error"),
        r"up to 1,024, too few for 1,000 shards",
        r"--shard-size",
    ),
    "a decoder that is wrong": (
        tried(dali_decodes={"colors": BLACK}),
        ("decode: DALI on the CPU", "error"),
        r"wrong by 220 of 256",
        r"Do not train with it",
    ),
    "a decoder that fails": (
        tried(H100, dali_decodes_on_gpu="RuntimeError: CUDA driver version is insufficient"),
        ("decode: DALI on the GPU", "error"),
        r"fails: RuntimeError: CUDA driver",
        r"--device cpu",
    ),
    "torch and DALI that do not bear each other": (
        tried(together="the process was ended by SIGABRT"),
        ("decode: all in one process", "error"),
        r"SIGABRT",
        r"issue",
    ),
    "damaged shards": (
        holding(problem="train/index.npy does not fit the manifest", reading=None),
        ("shards", "error"),
        r"does not fit",
        r"fasticcl verify",
    ),
    "a slow disk": (
        holding(reading=Reading(30_000_000, 300, 1.0, True)),
        ("disk", "warning"),
        r"^30 MB/s, 300 images/s drawn at random$",
        r"SSD.*--cache host",
    ),
}


@pytest.mark.parametrize("case", DISORDER, ids=str)
def test_disorder_is_diagnosed_by_name_with_what_to_do(case):
    facts, (name, status), found, advice = DISORDER[case]
    (finding,) = (finding for finding in judge(facts) if finding.name == name)
    assert finding.status == status
    assert re.search(found, finding.found)
    assert re.search(advice, finding.advice)


@pytest.mark.parametrize("case", DISORDER, ids=str)
def test_there_is_advice_exactly_where_something_is_not_well(case):
    for finding in judge(DISORDER[case][0]):
        assert bool(finding.advice) == (finding.status != "ok")


def statuses(facts):
    return {finding.name: finding.status for finding in judge(facts)}


@pytest.mark.parametrize(
    "facts",
    [
        H100,
        LAPTOP,
        installed(tried(torch=CPU_TORCH, torchvision={"version": "0.29.2+cpu"}), torchvision="0.29.2+cpu"),
        tried(H100, torch=CUDA_12, torchvision={"version": "0.29.2+cu126"}),  # on a driver for CUDA 13
        driven(driver="525.60.13"),  # with CUDA's compatibility package, whose libcuda serves 13
        driven(limited(H100, quota=4.0, torch_threads=4), visible="0"),
        tried(H100, jpeg_engine={"engines": 0, "cores": 0}),
        installed(nvidia_dali_tf_plugin_cuda120="2.4.0"),
        holding(reading=Reading(2_400_000, 20_000, 1.0, True)),  # CIFAR: small images, many of them
        holding(reading=Reading(100_000, 350, 0.01, False)),
    ],
)
def test_machines_in_order_are_left_alone(facts):
    assert set(statuses(facts).values()) == {"ok"}


def test_what_cannot_be_tried_without_torch_is_not_blamed():
    found = statuses(tried(H100, torch=NO_MODULE, torchvision=NO_MODULE, torch_decodes=NO_MODULE))
    assert [name for name, status in found.items() if status == "error"] == ["torch"]
    assert found["decode: DALI on the CPU"] == "ok"
    assert not {"GPU", "decode: torchvision on the CPU", "decode: all in one process"} & set(found)


def test_the_cuda_of_torch_and_of_dali_need_not_be_one():
    (finding,) = (finding for finding in judge(LAPTOP) if finding.name == "CUDA pairing")
    assert finding.found.startswith("torch is built for CUDA 13, DALI for CUDA 12")


def test_a_speed_that_may_be_that_of_memory_is_not_told_as_the_disks():
    reading = Reading(300_000_000, 3000, 1.0, cold=False)
    (finding,) = (finding for finding in judge(holding(reading=reading)) if finding.name == "disk")
    assert "may have come from memory" in finding.found
