from siamkit.testing import check_plugin


def test_keeps_the_contract():
    check_plugin("siamkit-tinyconv")
