from ghn.pages.markdown import markdown_table, spread


def test_a_table_has_a_line_for_each_row_and_numbers_to_the_right():
    lines = markdown_table(["name", ">size"], [["a", "1"], ["b", "2"]])

    assert lines == ["| name | size |", "| --- | ---: |", "| a | 1 |", "| b | 2 |"]


def test_a_spread_is_that_of_a_sample_and_one_value_has_none():
    assert spread([1.0, 3.0]) == "2.0 ± 1.4"
    assert spread([0.25], digits=2) == "0.25"
