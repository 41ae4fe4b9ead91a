"""Findings as dictionaries, the format of ``fasticcl doctor --json``."""

from fasticcl.doctor.facts import Finding


def test_finding_has_the_documented_json_keys():
    finding = Finding("cores", "warning", "1, some CPU", "Use at least two cores.")
    assert finding.to_dict() == {
        "name": "cores",
        "status": "warning",
        "found": "1, some CPU",
        "advice": "Use at least two cores.",
    }
