"""Which changes of metrics are gains."""

from hypothesis import given
from hypothesis import strategies as st

from siamkit.report.gains import verdict


def test_more_is_better_unless_the_metric_counts_errors():
    assert (verdict("recall@1", 0.1), verdict("recall@1", -0.1)) == ("gain", "loss")
    assert (verdict("eer", 0.1), verdict("eer", -0.1)) == ("loss", "gain")


def test_what_cannot_be_seen_is_neither():
    assert verdict("recall@1", -0.0004) == verdict("eer", 0.0004) == verdict("eer", 0.0) == ""


@given(st.sampled_from(["recall@1", "eer"]), st.floats(-1, 1))
def test_the_verdict_agrees_with_the_sign_that_is_shown(name, change):
    shown = f"{change:+.3f}"
    expected = (
        "" if float(shown) == 0 else "gain" if (shown[0] == "-") == (name == "eer") else "loss"
    )
    assert verdict(name, change) == expected
