"""Wrong distributions: what ``check_plugin`` must say of each."""

from __future__ import annotations

HEADER = """
import siamkit
from siamkit import Options, Scheduler
from siamkit.errors import ConfigError

class Constant(Scheduler):
    def __init__(self, options): ...
    def lr_scale(self, progress): return 1.0

class Factor(Options):
    factor: float = 1.0

"""

REGISTER = """
@siamkit.hookimpl
def siamkit_register_schedulers(register):
    {body}
"""


def registering(body):
    return HEADER + REGISTER.format(body=body)


def watching(body):
    return registering('register("fine", Constant)') + (
        "\n@siamkit.hookimpl\ndef siamkit_event(event):\n    " + body + "\n"
    )


def commanding(body):
    return registering('register("fine", Constant)') + (
        "\n@siamkit.hookimpl\ndef siamkit_register_commands(app):\n    " + body + "\n"
    )


MUTANTS = {
    "undecorated": (
        HEADER + "def siamkit_register_schedulers(register):\n    register('x', Constant)\n",
        "a hook is not decorated",
    ),
    "no-hook": (HEADER, "implements no hook"),
    "misspelt-hook": (
        registering('register("x", Constant)').replace("_schedulers(", "_scheduler("),
        "did you mean 'siamkit_register_schedulers'",
    ),
    "misspelt-argument": (
        registering('registry("x", Constant)').replace("(register)", "(registry)"),
        "has no argument 'registry'",
    ),
    "dict-options": (
        registering('register("x", Constant, options={"factor": 1.0})'),
        "options of 'x' must be a pydantic model",
    ),
    "options-object": (
        registering('register("x", Constant, options=Factor())'),
        "must be a class, not an instance of it",
    ),
    "name-with-space": (registering('register("my schedule", Constant)'), "cannot be registered"),
    "upper-case": (registering('register("MySchedule", Constant)'), "cannot be registered"),
    "no-name": (registering("register(None, Constant)"), "cannot be registered"),
    "built-already": (
        registering('register("x", Constant(None))'),
        "build of 'x' must be callable",
    ),
    "build-arguments": (
        registering('register("x", lambda options, context: Constant(options))'),
        "takes the wrong arguments",
    ),
    "no-summary": (registering('register("x", Constant, summary=None)'), "summary of 'x'"),
    "name-of-ours": (registering('register("cosine", Constant)'), "'cosine' of its own"),
    "twice": (registering('[register("x", Constant) for _ in "ab"]'), "registered twice"),
    "import-error": ("import no_such_package_at_all\n", "No module named"),
    "exit": ("raise SystemExit('sorry')\n", "SystemExit(sorry)"),
    "base-exception": ("raise GeneratorExit('gone')\n", "GeneratorExit"),
    "observer-fails": (watching("event.data['metrics']"), "KeyError"),
    "observer-exits": (watching("event.name == 'run_end' and exit()"), "SystemExit"),
    "command-of-ours": (
        commanding('app.command("train")(lambda: None)'),
        "command name 'train' of its own",
    ),
    "command-twice": (
        commanding('[app.command("hi")(lambda: None) for _ in "ab"]'),
        "only the last one runs",
    ),
    "command-fails": (commanding("1 / 0"), "ZeroDivisionError"),
    "no-command": (commanding("pass"), "adds no command"),
    "wrong-hook": (
        registering('register("x", Constant)')
        .replace("_schedulers(", "_losses(")
        .replace("(self, options)", "(self, options, context)"),
        "build to return a Loss",
    ),
    "loose-options": (
        registering('register("x", Constant, options=Loose)').replace(
            "class Factor", "class Loose(__import__('pydantic').BaseModel): ...\n\nclass Factor"
        ),
        "frozen and forbid extras",
    ),
}
"""The source of each plugin's module, and a part of what must be said of it."""

RIGHT = {
    "scheduler": registering('register("x", Constant, options=Factor, summary="Constant.")'),
    "observer": watching("event.data.get('metrics')"),
    "command": commanding('app.command("hi")(lambda: None)'),
}
