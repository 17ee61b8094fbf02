# SPDX-License-Identifier: Apache-2.0
import pytest

from standalone.judge_tests import judge

REPORT = """<testsuites><testsuite>
<testcase classname="test.a" name="runs"/><testcase classname="test.a" name="runs_too"/>
{skipped}
</testsuite></testsuites>"""
SKIP = '<testcase classname="test.b" name="odd"><skipped message="{}">x</skipped></testcase>'


def judged(tmp_path, *reasons, at_least=2, with_data=True):
    path = tmp_path / "report.xml"
    path.write_text(REPORT.format(skipped="".join(map(SKIP.format, reasons))))
    return judge(path, at_least, with_data)


def test_enough_tests_and_no_skip_is_well(tmp_path):
    assert judged(tmp_path) == []


def test_too_few_tests_are_told_with_both_numbers(tmp_path):
    assert judged(tmp_path, at_least=3) == ["2 tests ran, wanted at least 3: are all of them found?"]


@pytest.mark.parametrize(
    "reason", ["could not import 'launch'", "needs tf2_ros", "no CUDA", "no cv_bridge", "no browser"]
)
def test_what_cannot_be_had_may_be_skipped(tmp_path, reason):
    assert judged(tmp_path, reason) == []


def test_any_other_skip_is_named_with_its_reason(tmp_path):
    assert judged(tmp_path, "no torch") == ["test.b::odd may not be skipped: no torch"]


def test_data_may_be_missing_only_where_there_is_none(tmp_path):
    assert judged(tmp_path, "shared data: no folder /x", with_data=False) == []
    assert len(judged(tmp_path, "shared data: no folder /x", with_data=True)) == 1
