from pathlib import Path

import pyarrow as pa

from stages.evaluate import kept


def test_answers_lie_in_a_file_and_not_in_memory(tmp_path: Path) -> None:
    tables = [pa.table({"response": [f"{row} " * 1000 for row in range(start, start + 64)]}) for start in (0, 64, 128)]
    whole, before = pa.concat_tables(tables), pa.total_allocated_bytes()
    answers = kept(tmp_path / "answers", iter(tables))
    assert answers.equals(whole)
    assert answers.slice(70, 2)["response"].to_pylist() == ["70 " * 1000, "71 " * 1000]
    assert pa.total_allocated_bytes() - before < 0.01 * answers.nbytes
