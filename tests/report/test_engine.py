from siamkit.report.engine import engine_text

CACHED = {
    "mode": "cached", "reason": "each image and view is computed once", "boundary": "layer2",
    "rejected_boundaries": [], "kernel": "onnxruntime", "views": 8, "rows": 4096, "missing": 12,
    "bytes": 34_000_000, "live": 300.0, "cached": 31.0, "spread": 0.13,
}  # fmt: skip


def test_a_cached_phase_tells_its_rows_and_what_it_saves():
    assert engine_text(CACHED) == (
        "frozen up to layer2: 12 of 4096 features computed once with the onnxruntime kernel, the "
        "others are in the cache, 34.0 MB; 8 views per image; each image and view is computed "
        "once (estimated 31 s with the cache, 5 min 00 s without, give or take 20 %)"
    )


def test_a_live_phase_tells_its_kernel():
    live = {**CACHED, "mode": "live", "views": None, "reason": "the cache is off"}
    text = engine_text(live)
    assert "frozen up to layer2: computed for every batch with the onnxruntime kernel" in text
    assert "a new view every epoch; the cache is off" in text


def test_features_that_are_all_there_need_no_kernel():
    assert "frozen up to layer2: all 4096 features are in the cache, 34.0 MB" in engine_text(
        {**CACHED, "missing": 0, "kernel": None}
    )


def test_an_empty_cache_is_filled_once():
    assert (
        "frozen up to layer2: 4096 features computed once with the folded kernel and cached"
        in engine_text({**CACHED, "missing": 4096, "kernel": "folded"})
    )


def test_what_was_rejected_boundaries_follows_with_its_reason():
    reason = "layer3: what comes after it needs more than its output (differ by 0.3)"
    assert (
        engine_text({**CACHED, "rejected_boundaries": [reason]}).splitlines()[1]
        == f"the network cannot be cut at {reason}"
    )


def test_a_whole_network_says_why():
    whole = {"mode": "whole", "reason": "no part is frozen", "boundary": None, "kernel": None}
    assert engine_text(whole) == "the whole network runs for every batch: no part is frozen"
