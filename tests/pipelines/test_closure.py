from pathlib import Path

from pipelines.closure import closure


def test_closure(tmp_path: Path) -> None:
    files = {
        "stages/__init__.py": "import triplex.unseen\n",
        "stages/a.py": "import os\nimport torch\nfrom triplex.one import f\n",
        "triplex/one.py": "def f():\n    from triplex.sub import two, name\n    import triplex.sub.three as x\n",
        "triplex/sub/__init__.py": "",
        "triplex/sub/two.py": "from triplex.one import f\n",
        "triplex/sub/three.py": "if False:\n    import stages.b\n",
        "stages/b.py": "",
        "triplex/unseen.py": "",
        "elsewhere/c.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert closure("stages.a", tmp_path) == {
        "stages/a.py",
        "stages/b.py",
        "triplex/one.py",
        "triplex/sub/two.py",
        "triplex/sub/three.py",
    }
    assert closure("stages.b", tmp_path) == {"stages/b.py"}
    assert closure("elsewhere.c", tmp_path) == set()
