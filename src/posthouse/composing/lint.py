"""What a template may not do. The engine's own limits do not hold against every attack, so whatever could grow a value is refused here.

The rules are read on Jinja2's syntax tree, which is the same language as minijinja's. String growth that is left is stopped by fuel,
and by the render child's memory limit.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError

from posthouse.composing.engine import FILTERS
from posthouse.composing.tags import LEXER, template_wrong

_MOST_SETS = 30
_MOST_FILTERS_IN_A_ROW = 8
_LONGEST_REPLACEMENT = 100
_DEEPEST_LOOP = 3
_STATEMENTS = {
    nodes.Macro: "macro",
    nodes.CallBlock: "call",
    nodes.FilterBlock: "filter",
    nodes.Import: "import",
    nodes.FromImport: "from … import",
    nodes.Extends: "extends",
    nodes.Include: "include",
    nodes.Block: "block",
    nodes.AssignBlock: "set … endset",
    nodes.ScopedEvalContextModifier: "autoescape",
    nodes.ExprStmt: "do",
}
_OPERATORS = {nodes.Mul: "*", nodes.Pow: "**"}
_TESTS = frozenset(
    {"defined", "undefined", "none", "string", "number", "odd", "even", "in", "eq", "ne", "true", "false"}
)
_SUBSTITUTES = {
    "safe": "Values are always escaped; write HTML in the template itself.",
    "escape": "Values are always escaped, once; leave it out.",
    "e": "Values are always escaped, once; leave it out.",
    "urlencode": "Values inside a link are always encoded; leave it out.",
}


def lint(source: str, where: str) -> None:
    """Raises TemplateWrong for the first rule that the template breaks, with its line and how to mend it."""
    tree = _parsed(source, where)
    for node, sentence in _faults(tree):
        raise template_wrong(where, node.lineno, sentence)


def required_fields(source: str, where: str) -> list[str]:
    """The merge fields that are printed whatever happens: not inside `if` or `for`, and without a default."""
    names: list[str] = []
    tree = _parsed(source, where)
    locals_ = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            continue
        for expression in output.nodes:
            name = _field_name(expression)
            if name is not None and name not in locals_ and name not in ("unsubscribe_url", "postal_address"):
                names.append(name)
    return names


def _parsed(source: str, where: str) -> nodes.Template:
    try:
        return LEXER.parse(source)
    except TemplateSyntaxError as error:
        raise template_wrong(where, error.lineno, f"{(error.message or 'it cannot be read').rstrip('.')}.") from error
    except RecursionError as error:
        raise template_wrong(where, None, "It is nested too deeply. Take some of the tags apart.") from error


def _field_name(expression: nodes.Node) -> str | None:
    while (
        isinstance(expression, nodes.Filter) and expression.name not in ("default", "d") and expression.node is not None
    ):
        expression = expression.node
    if isinstance(expression, nodes.Name):
        return expression.name
    if (
        isinstance(expression, nodes.Getattr)
        and isinstance(expression.node, nodes.Name)
        and expression.node.name == "contact"
    ):
        return expression.attr
    return None


def _faults(tree: nodes.Template) -> Iterator[tuple[nodes.Node, str]]:
    for node in tree.find_all(nodes.Node):
        for kind, word in _STATEMENTS.items():
            if isinstance(node, kind):
                yield node, f"{{% {word} %}} is not allowed in a message. Write the text out."
        for operator, sign in _OPERATORS.items():
            if isinstance(node, operator):
                yield (
                    node,
                    f"The operator {sign} is not allowed: it could grow without limit. Prepare the value as a merge field.",
                )
    yield from _name_faults(tree)
    yield from _call_faults(tree)
    yield from _filter_faults(tree)
    yield from _growth_faults(tree)
    yield from _loop_faults(tree)


def _name_faults(tree: nodes.Template) -> Iterator[tuple[nodes.Node, str]]:
    for name in tree.find_all(nodes.Name):
        if name.name.startswith("_") or name.name == "self":
            yield name, f"The name {name.name} is not allowed. Names of merge fields begin with a letter."
        elif name.ctx == "store" and name.name in ("contact", "unsubscribe_url", "postal_address"):
            yield name, f"{name.name} cannot be set. Choose another name."
    for attribute in tree.find_all(nodes.Getattr):
        if attribute.attr.startswith("_"):
            yield attribute, f"The name {attribute.attr} is not allowed. Names of merge fields begin with a letter."
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.arg, nodes.Const) and str(item.arg.value).startswith("_"):
            yield item, f"The name {item.arg.value} is not allowed. Names of merge fields begin with a letter."


def _call_faults(tree: nodes.Template) -> Iterator[tuple[nodes.Node, str]]:
    for call in tree.find_all(nodes.Call):
        called = call.node
        name = (
            called.name
            if isinstance(called, nodes.Name)
            else called.attr
            if isinstance(called, nodes.Getattr)
            else "this"
        )
        yield call, f"{name}(…) cannot be called: a message has merge fields and filters only."


def _filter_faults(tree: nodes.Template) -> Iterator[tuple[nodes.Node, str]]:
    for node in tree.find_all(nodes.Filter):
        if node.name not in FILTERS:
            yield (
                node,
                f"The filter {node.name} is not offered. {_SUBSTITUTES.get(node.name, 'Prepare the value as a merge field.')}",
            )
        if node.name == "replace" and any(
            not isinstance(argument, nodes.Const) or len(str(argument.value)) > _LONGEST_REPLACEMENT
            for argument in node.args
        ):
            yield node, f"replace takes two texts of at most {_LONGEST_REPLACEMENT} characters, written out."
        if _filters_in_a_row(node) > _MOST_FILTERS_IN_A_ROW:
            yield node, f"More than {_MOST_FILTERS_IN_A_ROW} filters in a row. Prepare the value as a merge field."
    for test in tree.find_all(nodes.Test):
        if test.name not in _TESTS:
            yield test, f"The test “is {test.name}” is not offered. Compare with == or use {{% if field %}}."


def _filters_in_a_row(node: nodes.Filter) -> int:
    count = 0
    inner: nodes.Node | None = node
    while isinstance(inner, nodes.Filter):
        count, inner = count + 1, inner.node
    return count


def _growth_faults(tree: nodes.Template) -> Iterator[tuple[nodes.Node, str]]:
    assignments: list[nodes.Assign | nodes.With] = [*tree.find_all(nodes.Assign), *tree.find_all(nodes.With)]
    if len(assignments) > _MOST_SETS:
        yield assignments[_MOST_SETS], f"More than {_MOST_SETS} times set or with. Prepare the values as merge fields."
    set_here = {name.name for name in tree.find_all(nodes.Name) if name.ctx in ("store", "param")}
    for assignment in assignments:
        for value in [assignment.node] if isinstance(assignment, nodes.Assign) else assignment.values:
            for part in (value, *value.find_all(nodes.Node)):
                doubles = isinstance(part, nodes.Concat) and any(
                    name.name in set_here for name in part.find_all(nodes.Name)
                )
                if doubles or isinstance(part, (nodes.List, nodes.Dict, nodes.Tuple, nodes.Add)):
                    yield (
                        part,
                        "A value that is set cannot be a list, a table or a sum: it could grow without limit. Use a merge field.",
                    )
    for literal in (*tree.find_all(nodes.List), *tree.find_all(nodes.Dict), *tree.find_all(nodes.Tuple)):
        if any(name.ctx == "load" for name in literal.find_all(nodes.Name)):
            yield (
                literal,
                "A list or a table written out cannot hold variables: it could grow without limit. Use a merge field.",
            )


def _loop_faults(tree: nodes.Template) -> Iterator[tuple[nodes.Node, str]]:
    for loop in tree.find_all(nodes.For):
        if loop.recursive:
            yield loop, "A recursive loop is not allowed. Write the levels out."
        depth, inner = 1, [loop]
        while inner := [deeper for outer in inner for deeper in _direct_loops(outer)]:
            depth += 1
        if depth > _DEEPEST_LOOP:
            yield loop, f"Loops stand more than {_DEEPEST_LOOP} deep in each other. Prepare the values as merge fields."


def _direct_loops(node: nodes.Node) -> Iterator[nodes.For]:
    for child in node.iter_child_nodes():
        if isinstance(child, nodes.For):
            yield child
        else:
            yield from _direct_loops(child)
