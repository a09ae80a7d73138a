"""The parameters of a running notebook, as its cells assign them."""

import ast
import re

CALL = "notebook_settings("   # what the cell does that asks for the parameters


def cell_parameters(keys):
    """{name: value} of the names that the parameters cells of the running notebook assign; `keys` are the right ones.

    These are the notebook's own cell, which begins with `# Parameters: ...` or assigns `profile`, and the one that
    papermill adds, which begins with the line `# Parameters`. The last run of each counts, in the order in which they
    ran. They are run again, apart from the notebook's other variables, from which parameters could not be told.

    Raises ValueError, in one sentence, where anything that a cell assigns would be ignored.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise ValueError("the parameters of a notebook are known inside a running notebook only; elsewhere use "
                         "robustgen.experiments.settings.load_settings(profile, notebook)")
    cells, beside, last = [], set(), {}
    for raw in shell.history_manager.input_hist_raw:
        if cell := _parameters_cell(shell, raw):
            cells, beside, closed = [*cells, cell], set(), False
        elif CALL in raw:
            closed = True   # from here on names are the notebook's variables
        elif cells and not closed:
            beside |= _names(_parsed(shell, raw)) & {*keys}
    if beside:
        raise ValueError(f"{', '.join(sorted(beside))} would be ignored, as another cell than that of the parameters "
                         "assigns it; move it into the cell that begins with '# Parameters'")
    for added, tree in cells:
        last.pop(added, None)   # so that the order is that of the last runs
        last[added] = tree
    if not last:
        raise ValueError("no parameters cell has been run: run the cell that begins with '# Parameters' and assigns "
                         "profile, such as profile = \"laptop\"")
    if False in last and "profile" not in _names(last[False]):
        raise ValueError("the last run of the cell that begins with '# Parameters: ' does not assign profile; let one "
                         "cell assign profile and all other parameters")
    lost = set().union(*(_names(tree) for added, tree in cells if added)) - _names(last.get(True, ast.Module([], [])))
    if lost:
        raise ValueError(f"{', '.join(sorted(lost))} of an earlier cell that begins with the line '# Parameters' would "
                         "be ignored, as papermill writes that line, too, and a later cell has it; let yours go on, as "
                         "in '# Parameters: mine', and restart the kernel")
    given = {}
    for tree in last.values():
        given |= _assigned(tree, shell.user_ns | given)
    if "profile" not in given:
        raise ValueError("the parameters cell does not assign profile; add a line such as profile = \"laptop\"")
    return given


def _parameters_cell(shell, raw):
    """(whether it is papermill's, syntax tree) of a cell that assigns parameters, None for any other."""
    magic, text = re.fullmatch(r"(?:[ \t]*\n)*(?:(%%\w+)[^\n]*\n(?:[ \t]*\n)*)?(.*)", raw, re.DOTALL).groups()
    head = re.match(r"\s*# ?Parameters\b([^\n]*)", text)
    if CALL in text or (magic not in (None, "%%time", "%%capture") and not head):
        return None
    if magic not in (None, "%%time", "%%capture"):
        raise ValueError(f"the parameters cell begins with {magic}, under which it assigns nothing; delete that line")
    tree = _parsed(shell, text)
    return (bool(head and not head[1].strip()), tree) if head or "profile" in _names(tree) else None


def _parsed(shell, text):
    """The syntax tree of a cell; an empty one if it is not Python, so that it has not run either."""
    try:
        return ast.parse(shell.transform_cell(text))
    except SyntaxError:
        return ast.Module([], [])


def _names(tree):
    """The names that a cell assigns or takes from modules, without those inside functions and classes."""
    names, left = set(), [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.comprehension):
            left += ast.iter_child_nodes(node)
    return names


def _assigned(tree, namespace):
    """The names that a cell assigns, with their values when it is run in a copy of `namespace`."""
    names = _names(tree)
    valueless = [node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and node.value is None]
    if valueless:
        raise ValueError(f"the parameters cell gives {valueless[0]!r} a type and no value; add the value")
    if "*" in names:
        raise ValueError("the parameters cell imports *; name what it should take")
    namespace = {name: value for name, value in namespace.items() if name not in names}
    try:
        exec(compile(tree, "<parameters>", "exec"), namespace)
    except Exception as error:
        raise ValueError(f"the parameters cell cannot be run again on its own: {type(error).__name__}: {error}; let it "
                         "assign plain values") from error
    return {name: namespace[name] for name in names if name in namespace}
