"""What a notebook's parameters cells mean: right, or refused in one sentence; nothing is ignored."""

import math
import re

import IPython
import pytest
from IPython.core.interactiveshell import InteractiveShell
from papermill.translators import PythonTranslator
from traitlets.config import Config

from robustgen.experiments.settings import load_settings, notebook_settings
from robustgen.utils.parameters import cell_parameters

OWN = '# Parameters: the profile, and any key\nprofile = "test"\n'   # as the notebooks have it
KEYS = ["eps", "seeds"]
SETTINGS = 'profile, cfg = notebook_settings("spectral_mnist")'


@pytest.fixture
def run(monkeypatch):
    """run(*cells) runs cells in a new kernel, and the cell that calls for the settings; their parameters."""
    def run(*cells):
        config = Config()
        config.HistoryManager.enabled = False   # no file of it
        shell = InteractiveShell(config=config)
        monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
        for cell in cells:
            shell.run_cell(cell, store_history=True, silent=False)
        return cell_parameters(KEYS)
    return run


def papermill(**given):
    return PythonTranslator.codify(given)


@pytest.mark.parametrize("cells, eps", [
    ([OWN + "eps = 0.5"], 0.5),
    ([OWN + "eps: float = 0.5"], 0.5),
    ([OWN + "eps = 8 / 255"], 8 / 255),
    ([OWN + "import math\neps = math.sqrt(4)"], 2.0),
    ([OWN + "if profile == 'test':\n    eps = 0.5\nelse:\n    eps = 1.0"], 0.5),
    ([OWN + "eps = 1.0; eps /= 2"], 0.5),
    ([OWN + "eps = sum(n for n in [1, 2])"], 3),
    ([OWN.replace("profile =", "profile: str =") + "eps = 0.5"], 0.5),
    (["\n \n" + OWN + "eps = 0.5"], 0.5),
    (["%%time\n" + OWN + "eps = 0.5"], 0.5),
    (["\n%%capture out\n\n" + OWN + "eps = 0.5"], 0.5),
    ([OWN + "%pwd\n!true\neps = 0.5"], 0.5),
    ([OWN.replace("# Parameters", "#Parameters") + "eps = 0.5"], 0.5),
    (['# mine\nprofile = "test"\neps = 0.5'], 0.5),          # without its first line
    (['%%time\nprofile = "test"\neps = 0.5'], 0.5),
    (["start = 1.0", OWN + "eps = start / 2"], 0.5),         # from an earlier cell
    ([OWN + "eps = 1.0", OWN + "eps = 0.5"], 0.5),           # edited and run again
    ([OWN + "eps = 1.0", OWN + "eps = 0.5", SETTINGS, "eps = 7"], 0.5),   # eps is another variable afterwards
    ([OWN + "eps = 0.5", "images = 3", SETTINGS], 0.5),      # no key of the settings
    ([OWN + "eps = 0.5", "eps = = 1"], 0.5),                 # did not run
    ([OWN + "eps = 1.0", papermill(eps=0.5)], 0.5),
    ([OWN, papermill(eps=0.5), SETTINGS], 0.5),
    ([OWN, papermill(eps=1.0), papermill(eps=0.5)], 0.5),    # papermill's, edited
    ([OWN, papermill(eps=1.0), OWN + "eps = 0.5"], 0.5),     # the last one run counts, as in Python
    (['# Parameters\nprofile = "test"\neps = 1.0', '# Parameters\nprofile = "test"\neps = 0.5'], 0.5),
])
def test_parameters_are_what_the_cell_assigns(run, cells, eps):
    assert run(*cells) == {"profile": "test", "eps": eps}


def test_a_line_that_was_deleted_no_longer_counts(run):
    assert run(OWN + "eps = 1.0", SETTINGS, OWN) == {"profile": "test"}


def test_a_branch_that_is_not_taken_assigns_nothing(run):
    assert run(OWN + "if profile == 'gpu':\n    eps = 1.0", SETTINGS, "eps = 7") == {"profile": "test"}


def test_papermills_values_are_those_of_the_command(run):
    found = run(OWN, papermill(profile="gpu", eps=math.nan, seeds=[0, 1], name=None))
    assert math.isnan(found.pop("eps")) and found == {"profile": "gpu", "seeds": [0, 1], "name": None}


@pytest.mark.parametrize("cells, sentence", [
    ([], "no parameters cell has been run"),
    (["eps = 0.5"], "no parameters cell has been run"),
    ([OWN + SETTINGS], "no parameters cell has been run"),   # in one cell with the call
    (["# Parameters: mine\neps = 0.5"], "does not assign profile"),
    ([OWN, "# Parameters: more\neps = 0.5"], "let one cell assign profile and all other parameters"),
    (["# Parameters\neps = 0.5"], "does not assign profile; add a line such as profile = \"laptop\""),
    ([OWN + "eps: float"], "gives 'eps' a type and no value"),
    ([OWN + "eps = = 0.5"], "does not assign profile"),      # did not run
    ([OWN, "eps = 0.5", SETTINGS], "eps would be ignored, as another cell than that of the parameters assigns it"),
    ([OWN, SETTINGS, "eps = 0.5", OWN, "if True:\n    eps = 0.7"], "move it into the cell that begins with"),
    ([OWN + "eps = nowhere"], "cannot be run again on its own: NameError: name 'nowhere'"),
    (["%%writefile /dev/null\n" + OWN], "begins with %%writefile"),
    ([OWN + "from math import *"], "imports *; name what it should take"),
    (['# Parameters\nprofile = "test"\neps = 0.5', papermill(profile="gpu")], "eps of an earlier cell"),
])
def test_what_would_be_ignored_is_refused_in_a_sentence(run, cells, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        run(*cells)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code, sentence", [
    ("epz = 0.5", "parameter 'epz' does not exist; did you mean 'eps'?"),
    ("n = 255; eps = 8 / n", "parameter 'n' does not exist"),
    ("for sigma in [0.1, 0.2]: step = sigma", "parameter 'step' does not exist"),
    ("from math import pi; eps = pi", "parameter 'pi' does not exist"),
    ("eps = float('nan')", "'eps' is nan: it should be a finite number"),
    ("eps = '0.5'", "'eps' is '0.5': it should be a valid number"),
    ("profile = 'labtop'", "profile 'labtop' does not exist; did you mean 'laptop'?"),
])
def test_a_name_or_value_that_is_no_setting_is_refused(run, code, sentence):
    run(OWN + code)
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        notebook_settings("spectral_mnist")
    assert "\n" not in str(caught.value)


def test_the_settings_are_the_profiles_with_the_parameters_on_top(run):
    run(OWN + "eps: float = 8 / 255")
    assert notebook_settings("spectral_mnist") == ("test", load_settings("test", "spectral_mnist", eps=8 / 255))


def test_outside_a_notebook_the_other_function_is_named(monkeypatch):
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    with pytest.raises(ValueError, match="inside a running notebook only; elsewhere use .*load_settings"):
        cell_parameters([])
