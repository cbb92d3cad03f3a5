from __future__ import annotations

from graph_helpers import chain

from ghn.graphs.blocks import find_blocks, fold


def test_equal_consecutive_blocks_are_kept_once():
    graph = chain(("blocks.0", 8), ("blocks.1", 8), ("blocks.2", 8))

    folded = fold(graph)

    assert folded.repeats == {"blocks.0": 3}
    assert [graph.nodes[n].op for n in folded.kept] == ["input", "linear", "relu", "add", "output"]
    assert folded.edges == [(0, 1), (1, 2), (2, 3), (3, 10)]


def test_blocks_of_another_width_are_not_folded():
    graph = chain(("blocks.0", 8), ("blocks.1", 16), ("blocks.2", 16))

    folded = fold(graph)

    assert folded.repeats == {"blocks.1": 2}
    assert len(folded.kept) == len(graph.nodes) - 3


def test_inner_blocks_are_folded_where_the_outer_ones_differ():
    graph = chain(("stages.0.blocks.0", 8), ("stages.0.blocks.1", 8), ("stages.1.blocks.0", 16))

    assert fold(graph).repeats == {"stages.0.blocks.0": 2}


def test_equal_blocks_with_something_in_between_are_not_folded():
    graph = chain(("norms.0", 8), ("between", 8), ("norms.1", 8))

    assert fold(graph).repeats == {}


def test_folding_keeps_every_kept_node_connected():
    graph = chain(*[(f"blocks.{i}", 8) for i in range(5)], skip=True)

    folded = fold(graph)

    targets = {v for _, v in folded.edges}
    assert targets == set(folded.kept) - {0}
    assert all(u < v for u, v in folded.edges)


def test_blocks_that_take_turns_are_one_run():
    widths = [8, 16, 8, 16, 8, 16]
    graph = chain(*[(f"blocks.{i}", width) for i, width in enumerate(widths)])

    folded = fold(graph)

    assert folded.repeats == {"blocks.0": 3, "blocks.1": 3}
    assert len(folded.kept) == 2 + 2 * 3


def test_a_run_of_turns_ends_with_the_last_whole_turn():
    widths = [8, 16, 8, 16, 8]
    graph = chain(*[(f"blocks.{i}", width) for i, width in enumerate(widths)])

    assert fold(graph).repeats == {"blocks.0": 2, "blocks.1": 2}


def test_equal_operators_that_are_wired_otherwise_are_not_folded():
    graph = chain(("blocks.0", 8), ("blocks.1", 8))
    assert fold(graph).repeats == {"blocks.0": 2}

    graph.edges.append((4, 6))  # a shortcut in the second block alone

    assert fold(graph).repeats == {}


def test_blocks_nest_and_a_copy_has_its_own_inner_blocks():
    scopes = [f"stages.{s}.blocks.{b}" for s in range(2) for b in range(3)]
    graph = chain(*[(scope, 8) for scope in scopes])

    blocks = find_blocks(graph)

    by_scope = {block.scope: block for block in blocks}
    assert by_scope["stages.0"].parent is None
    assert blocks[by_scope["stages.1.blocks.2"].parent].scope == "stages.1"
    assert blocks[by_scope["stages.1"].repeats].scope == "stages.0"
    assert blocks[by_scope["stages.1.blocks.2"].repeats].scope == "stages.1.blocks.0"
    assert fold(graph).repeats == {"stages.0": 2, "stages.0.blocks.0": 3}


def test_the_windows_of_a_swin_fold_in_turns_and_blocks_are_intervals_inside_their_parents():
    import timm
    import torch

    from ghn import trace

    with torch.device("meta"):
        model = timm.create_model("swin_tiny_patch4_window7_224")
    graph = trace(model)

    blocks = find_blocks(graph)

    assert {"layers.2.blocks.0", "layers.2.blocks.1"} <= set(fold(graph).repeats)
    for block in blocks:
        inside = {n.scope for n in graph.nodes[block.first : block.last + 1]}
        assert all(f"{scope}.".startswith(f"{block.scope}.") for scope in inside)
        if block.parent is not None:
            outer = blocks[block.parent]
            assert outer.first <= block.first <= block.last <= outer.last
