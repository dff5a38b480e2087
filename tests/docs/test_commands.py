"""Every command, option, recipe key and file that a document names is there."""

import pkgutil
import re
import shlex

import click
import pytest
import yaml

from tests.docs.commands import GROUPS, WrongCommand, calls, check, check_settings, options
from tests.docs.pages import PAGES, ROOT, blocks, prose, spans
from xdc_fast.recipe import GROUPS as RECIPE_GROUPS
from xdc_fast.recipe import load_recipe, settings

SHELL = [block for page in PAGES for block in blocks(page, "sh")]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
KNOWN_LANGUAGES = {"sh", "python", "text", "bibtex", "yaml", "{eval-rst}", "{include}",
                   "{toctree}", "{recipe-keys}"}  # fmt: skip
SETTING = re.compile(r"[a-z][a-z_.]*=\S*")
KEY = re.compile(rf"(?:{'|'.join(RECIPE_GROUPS)})\.[a-z_]+")
FILE_ENDINGS = ("csv", "npy", "npz", "json", "mp4", "wav")
PATH = re.compile(r"(?:recipes|docs|xdc_fast|tests|benchmarks|kernels|tools)/[a-z0-9_/.-]*")


def refusals(commands, whole=True):
    """What is wrong with some commands."""
    found = []
    for command in commands:
        try:
            check(command, whole)
        except WrongCommand as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.name)
def test_command_blocks_are_commands(block, tmp_path):
    found = calls(block.text, tmp_path)
    assert found, "a block of commands has none"
    assert refusals(found) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_and_tables(page):
    words = [shlex.split(span) for span in spans(page) if span.split()[0] in
             {*GROUPS, "make", "pytest", "torchrun"} or span.startswith("python -m ")]  # fmt: skip
    commands = [[w.removesuffix("...") for w in command if w != "..."] for command in words]
    assert refusals(commands, whole=False) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_settings_and_files_in_sentences_are_there(page):
    known, keys = options(), {name for name, _ in settings()}
    for span in spans(page):
        words = span.split()
        if span.startswith("--"):
            assert words[0] in known, span
        elif all(SETTING.fullmatch(word) for word in words):
            check_settings(tuple(words))
        elif KEY.fullmatch(span) and not span.endswith(FILE_ENDINGS):
            assert span in keys, span
        elif PATH.fullmatch(span):
            assert (ROOT / span).exists(), span
        elif span.startswith("xdc_fast."):
            pkgutil.resolve_name(span.partition("(")[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_fenced_and_python_compiles(page):
    assert not re.search(r"\n\n    +[^ -]", prose(page)), "an indented block is not tested"
    assert {block.language for block in blocks(page)} <= KNOWN_LANGUAGES
    for block in blocks(page, "python"):
        compile(block.text, block.name, "exec")


def test_the_kubernetes_jobs_hold_commands(tmp_path):
    packing, training = [
        b.text for page in PAGES for b in blocks(page, "yaml") if "kind: Job" in b.text
    ]
    service, job = yaml.safe_load_all(training)
    pod = job["spec"]["template"]["spec"]
    assert service["metadata"]["name"] == pod["subdomain"] == job["metadata"]["name"]
    line = command_of(job, tmp_path / "training")
    assert f"--nnodes {job['spec']['completions']} " in line
    job = yaml.safe_load(packing)
    line = command_of(job, tmp_path / "packing")
    assert line.strip().endswith(f"--part $JOB_COMPLETION_INDEX/{job['spec']['completions']}")


def command_of(job, folder):
    """The line of a job's container, which the commands take."""
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    (line,) = container["args"]
    assert refusals(calls(line.replace("$JOB_COMPLETION_INDEX", "0"), folder)) == []
    return line


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_load_and_their_comments_hold_commands(path, tmp_path):
    load_recipe(path)
    comments = [line[4:] for line in path.read_text().splitlines() if line.startswith("#   ")]
    assert refusals(calls("\n".join(comments), tmp_path)) == []


@pytest.mark.parametrize("name", GROUPS)
def test_commands_in_help_texts(name, tmp_path):
    group = GROUPS[name]
    context = click.Context(group, info_name=name)
    for known in group.list_commands(context):
        command = group.get_command(context, known)
        lines = (command.help or "").replace("\\\n", "").splitlines()
        shown = "\n".join(line for line in lines if line.strip().startswith(tuple(GROUPS)))
        assert refusals(calls(shown, tmp_path / known)) == []


@pytest.mark.parametrize(
    "script, message",
    [
        ("xdc pretrain recipes/toy.yaml k=three", "three"),
        ("xdc pretrain recipes/toy.yaml train.rate=1", "train.rate"),
        ("xdc pretrain recipes/none.yaml", "none.yaml"),
        ("xdc-shard pack videos out --short-sides 40", "--short-side"),
        ("xdc report", "Missing argument"),
        ("xdc sweep recipes/toy.yaml method=xdc k=1,two", "two"),
        ("xdc nosuch x", "nosuch"),
        ("python -m benchmarks nosuch", "nosuch"),
        ("make nosuch", "nosuch"),
        ("pytest tests/test_none.py", "test_none"),
    ],
)
def test_mistakes_in_documents_are_found(script, message, tmp_path):
    (found,) = refusals(calls(script, tmp_path))
    assert message in found


@pytest.mark.parametrize("script", ["xdc_pretrain a b", "for x in 1; do xdc report a"])
def test_what_bash_does_not_know_is_found(script, tmp_path):
    with pytest.raises(WrongCommand):
        calls(script, tmp_path)
