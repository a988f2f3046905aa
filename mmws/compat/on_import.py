"""Actions that wait for another library to be imported, so that mmws need not import it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

Action = Callable[[ModuleType], None]


def when_imported(name: str, action: Action) -> None:
    """Call ``action(module)`` once the module ``name`` is executed, at once if it already is.

    Calling this again with the same action does nothing before the module is imported, and calls
    the action again afterwards.
    """
    module = sys.modules.get(name)
    if module is not None:
        action(module)
        return
    finder = next((f for f in sys.meta_path if isinstance(f, _ActingFinder)), None)
    if finder is None:
        finder = _ActingFinder()
        sys.meta_path.insert(0, finder)
    actions = finder.actions.setdefault(name, [])
    if action not in actions:
        actions.append(action)


class _ActingFinder(MetaPathFinder):
    """Finds modules as Python does, and calls their actions after they are executed."""

    def __init__(self) -> None:
        self.actions: dict[str, list[Action]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.actions:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_act(module: ModuleType) -> None:
            execute(module)
            for action in self.actions[fullname]:
                action(module)

        spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec
