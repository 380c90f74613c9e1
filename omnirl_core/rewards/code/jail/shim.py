"""The caller's side of a function test. It runs in the answer's own interpreter, so nothing trusts it.

Its text is put in front of the answer and travels into the sandbox as one program. It holds the arguments of
one test and never the expected value. Whatever it writes is data to the judge: an answer that replaces
`json`, writes the result itself or leaves early can only hand in a value, as it could by returning one.
"""

import json
import os
import sys
import types


def call(source: str, prelude: str) -> None:
    """Read {"call", "args", "kwargs"} from stdin, call the answer's function, write its value as JSON."""
    request = json.loads(sys.stdin.buffer.read())
    try:
        program = compile(source, "answer.py", "exec")
    except SyntaxError as error:
        # As Python reports it of a main file: the judge then spares the other tests
        sys.exit(f'  File "answer.py", line {error.lineno}\nSyntaxError: {error.msg}')
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the answer prints is not its result
    module = types.ModuleType("answer")  # not __main__: the answer's own demonstration stays asleep
    sys.modules["answer"] = module  # dataclasses look their module up
    exec(prelude, module.__dict__)
    exec(program, module.__dict__)
    found = getattr(module, request["call"], None)
    if found is None:
        found = getattr(module.Solution(), request["call"])
    value = found(*request["args"], **request["kwargs"])
    result.write(json.dumps(value))
    result.flush()
    os._exit(0)
