from __future__ import annotations

import dataclasses
import json

import pytest

from deltatune.report.heat import grids, learned_ranks
from deltatune.report.load import load

from .synthetic import write_comparison, write_grid


def edited(folder, change):
    path = folder / "leaderboard.json"
    board = json.loads(path.read_text())
    change(board)
    path.write_text(json.dumps(board))
    return load(folder)


def test_a_grid_of_rank_and_targets(tmp_path):
    (heat,) = grids(load(write_grid(tmp_path)))
    assert heat.title == "lora: Accuracy by targets and r"
    assert heat.columns == ["4", "8", "16"]  # rising, though the recipe has another order
    assert [name for name, _ in heat.rows] == ["query, value", "query, key, value, output"]
    texts = [[cell.text for cell in cells] for _, cells in heat.rows]
    assert [[text.removesuffix("\u202f%") for text in row] for row in texts] == [
        ["51.0", "52.0", "50.0"],
        ["56.0", "57.0", "failed"],
    ]
    shades = [[cell.level for cell in cells] for _, cells in heat.rows]
    assert shades == [[1, 3, 0], [8, 9, None]]
    assert [cell.best for cell in heat.rows[1][1]] == [True, True, False]
    assert "lora all r8\nAccuracy: 57.0" in heat.rows[1][1][1].tip


def test_where_lower_is_better_low_is_dark(tmp_path):
    write_grid(tmp_path)
    (heat,) = grids(edited(tmp_path, lambda board: board.update(higher_is_better=False)))
    assert [cell.level for cell in heat.rows[1][1]] == [1, 0, None]


def test_a_third_setting_makes_a_map_for_each_of_its_values(tmp_path):
    write_grid(tmp_path)

    def twice(board):
        for entry, row in zip(list(board["recipe"]["methods"]), list(board["rows"]), strict=True):
            name = f"{entry['name']} lr"
            board["recipe"]["methods"].append(entry | {"name": name, "train": {"lr": 0.01}})
            board["rows"].append(row | {"name": name})

    found = grids(edited(tmp_path, twice))
    assert [heat.title for heat in found] == [
        "lora: Accuracy by targets and r, train.lr default",
        "lora: Accuracy by targets and r, train.lr 0.01",
    ]


@pytest.mark.parametrize("shared", [None, {"format": "nf4", "double": True, "compute": "bf16"}])
def test_a_grid_of_rank_and_quantization(tmp_path, shared):
    """An entry without a field of its own has what the recipe says."""
    write_grid(tmp_path)
    board = json.loads((tmp_path / "leaderboard.json").read_text())
    board["recipe"]["quantization"] = shared
    for place, entry in enumerate(board["recipe"]["methods"]):
        entry["lora"]["targets"] = ["query"]
        entry["quantization"] = None if place < 3 else {"format": "nf4", "double": False, "compute": "bf16"}
        if place < 3 and shared is None:
            del entry["quantization"]
    (tmp_path / "leaderboard.json").write_text(json.dumps(board))
    (heat,) = grids(load(tmp_path))
    assert [name for name, _ in heat.rows] == ["none", "nf4, double false"]
    for entry in board["recipe"]["methods"][3:]:
        entry.pop("quantization")
    (tmp_path / "leaderboard.json").write_text(json.dumps(board))
    assert [[name for name, _ in heat.rows] for heat in grids(load(tmp_path))] == (
        [["none", "nf4"]] if shared else []
    )


@pytest.mark.parametrize("kept", [3, 1])
def test_without_a_grid_there_is_no_map(tmp_path, kept):
    write_grid(tmp_path)

    def fewer(board):
        board["rows"] = board["rows"][:kept]
        board["recipe"]["methods"] = board["recipe"]["methods"][:kept]

    assert grids(edited(tmp_path, fewer)) == []
    assert grids(edited(tmp_path, lambda board: board.update(recipe={}))) == []


def test_learned_ranks_by_matrix_and_layer(comparison_dir):
    (heat,) = learned_ranks(load(comparison_dir))
    assert heat.title == "adalora: learned rank by layer"
    assert heat.columns == ["0", "1"]
    assert [(name, [cell.text for cell in cells]) for name, cells in heat.rows] == [
        ("q", ["3.0", "3.0"]),
        ("v", ["1.0", "1.0"]),
    ]
    assert heat.rows[0][1][0].tip == "encoder.block.0.layer.0.SelfAttention.q\nrank 3.0 of 4 (seeds: 3, 3)"
    assert "8 of 16 ranks were kept" in heat.note


def test_a_pattern_of_numbers_will_do(tmp_path):
    write_comparison(tmp_path, seeds=(0,))
    path = tmp_path / "runs" / "adalora-s0" / "adapter" / "deltatune.json"
    path.write_text(json.dumps({"config": {"rank_pattern": {"h.0.q": 2, "h.10.q": 4, "h.2.q": 0}}}))
    (heat,) = learned_ranks(load(tmp_path))
    assert heat.columns == ["0", "2", "10"]
    assert [cell.text for cell in heat.rows[0][1]] == ["2", "0", "4"]
    path.write_text(json.dumps({"config": {"rank_pattern": None}}))
    assert learned_ranks(load(tmp_path)) == []


def test_of_many_rank_maps_the_best_are_shown_and_the_rest_counted(comparison_dir):
    comparison = load(comparison_dir)
    adalora = next(method for method in comparison.methods if method.name == "adalora")
    found = learned_ranks(dataclasses.replace(comparison, methods=[adalora] * 9))
    assert len(found) == 6
    assert "3 more methods have ranks" in found[-1].note
