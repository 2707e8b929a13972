"""The package as a whole: light to import, imports point downwards, dependencies listed once, a README that is true."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import sbertlab

PACKAGE = Path(sbertlab.__file__).parent
ROOT = PACKAGE.parent

FLOORS = [
    {"util", "checks", "storage"},
    {"data", "models"},
    {"losses", "encoder"},
    {"evaluation"},
    {"training", "curation", "analysis"},
    {"benchmark", "plots"},
    {"widgets", "serving"},
    {"commands", "__main__"},
]
"""Rooms and files of the package from the ground up: imports point downwards or stay on their floor."""

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"  # the face of the whole house imports from every floor
}


def imports_of(path):
    """Return the modules of the package that a file imports, those inside its functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: import by full names"
            if (node.module or "").partition(".")[0] == "sbertlab":
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    found.add(name if name in MODULES else str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("sbertlab.")}
    return found


def floor_of(module):
    room = module.split(".")[1]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards_or_stay_on_their_floor(module):
    above = {name for name in imports_of(MODULES[module]) if floor_of(name) > floor_of(module)}
    assert not above, f"{module} imports from a higher floor: {above}"


def test_no_two_modules_import_each_other():
    left = {module: imports_of(path) for module, path in MODULES.items()}
    while True:
        free = [name for name, needs in left.items() if not needs & left.keys()]
        if not free:
            break
        for name in free:
            del left[name]
    assert not left, f"these import each other in a circle: {sorted(left)}"


def test_importing_the_package_pulls_in_nothing_heavy():
    heavy = "umap numba matplotlib ipywidgets datasets mteb fastapi ray peft IPython".split()
    heavy += "jsonargparse wandb tensorboard trackio".split()
    code = f"import sys, sbertlab; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_environment_file_lists_nothing_twice():
    text = (ROOT / "environment.yml").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = list(project["dependencies"]) + [
        name for extra in project["optional-dependencies"].values() for name in extra
    ]
    names = {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in declared}
    assert "--editable ." in text, "it calls pip for the project"
    listed = set(re.findall(r"^\s*- ([A-Za-z][\w-]*)", text, re.MULTILINE))
    assert listed == {"conda-forge", "python", "pip"}
    assert not listed & names
    assert len(text.splitlines()) <= 12


def test_every_dependency_has_a_tested_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["lab"], *extras["test"]]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    missing = {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in needed} - pinned
    assert not missing


def code_blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_code_of_the_readme_runs_as_it_stands(tmp_path, minilm_folder):
    blocks = code_blocks(ROOT / "README.md", "python")
    assert blocks
    code = "\n".join(blocks)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:sbertlab", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "e-mail" in done.stdout


def test_the_readme_names_the_commands_that_the_makefile_has():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"lab", "benchmark", "test", "speed", "figures", "clean"} <= targets
    assert {"benchmark", "test", "lab"} <= named <= targets


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
)
def test_every_link_of_a_page_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    missing = [link for pair in links for link in pair if link and not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


def test_the_tree_of_the_readme_lists_every_room_and_file_at_the_top():
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("```\nsbertlab/\n")[1].split("```")[0]
    listed = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    there = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists() or path.suffix == ".py"}
    assert listed == {name for name in there if not name.startswith("_")}


def test_every_command_calls_a_function_that_takes_its_arguments():
    import argparse
    import inspect

    from sbertlab.commands import _parser

    (commands,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert len(commands.choices) > 5
    for parser in commands.choices.values():
        module, function = parser.get_default("run")
        given = {action.dest: None for action in parser._actions if action.dest != "help"}
        inspect.signature(getattr(import_module(module), function)).bind(**given)  # or a TypeError
