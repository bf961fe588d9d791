"""The formats: each makes a file's bytes of a program, and runs those bytes as its user will."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from leashrl.errors import BadInput
from leashrl.export.program import Program
from leashrl.runs.policies import LoadedPolicy
from leashrl.types import Discrete

OPSET, IR_VERSION = 17, 8
"""ONNX 1.12's, of 2022: runtimes on devices are often older than the one here."""
PLATFORMS = ("cpu", "cuda", "tpu")

Arrays = list[np.ndarray]


class Made(NamedTuple):
    """A file, and how it acts when it is read back."""

    data: bytes
    run: Callable[[Arrays], Arrays]
    """The program's inputs, each with a leading axis of rows, to its outputs."""
    about: dict[str, Any]
    """What the card says of the format: fields of `Exported`."""


# --- ONNX --------------------------------------------------------------------


def onnx(program: Program, policy: LoadedPolicy) -> Made:
    """By jax2onnx, run by onnxruntime; any number of rows."""
    try:
        with quiet():
            import onnxruntime
            from jax2onnx import to_onnx
            from onnx_ir import passes, to_proto
            from onnx_ir.passes import common
    except ImportError as error:
        raise missing("onnx", error.name or "jax2onnx") from None
    with quiet():
        try:
            model = to_onnx(
                lambda *rows: tuple(jax.vmap(program.call)(*rows)),
                specs(program),
                model_name=f"{policy.algorithm} {policy.name}",
                opset=OPSET,
                return_mode="ir",
            )
            # An output that is an input, or two of one value, get a node of their own, and so their own name.
            model = passes.Sequential(common.OutputFixPass(), common.RemoveUnusedNodesPass())(model).model
            model.ir_version = IR_VERSION
            for value, port in zip(model.graph.inputs, program.inputs, strict=True):
                value.name = port.name
            for value, port in zip(model.graph.outputs, program.outputs, strict=True):
                value.name = port.name
            data = to_proto(model).SerializeToString()
        except NotImplementedError as error:
            what = " ".join(str(error).split())
            raise BadInput(
                f"jax2onnx cannot convert {policy.algorithm} as it acts here ({what}): --format stablehlo"
            ) from None

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(rows: Arrays) -> Arrays:
        named = {port.name: row for port, row in zip(program.inputs, rows, strict=True)}
        return list(map(np.asarray, session.run([port.name for port in program.outputs], named)))

    return Made(data, run, {"opset": OPSET, "ir_version": IR_VERSION})


# --- StableHLO ---------------------------------------------------------------


def stablehlo(program: Program, policy: LoadedPolicy) -> Made:
    """By `jax.export`, run by what `jax.export.deserialize` gives; any number of rows."""
    from jax import export

    whole = jax.jit(lambda *rows: list(jax.vmap(program.call)(*rows)))
    try:
        data = bytes(export.export(whole, platforms=PLATFORMS)(*specs(program)).serialize())
    except ImportError:
        raise missing("stablehlo", "flatbuffers") from None
    read = export.deserialize(bytearray(data))
    call = jax.jit(read.call)
    about = {"platforms": PLATFORMS, "calling_convention_version": read.calling_convention_version}
    return Made(data, lambda rows: [np.asarray(x) for x in call(*rows)], about)


# --- numpy -------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
HEADS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "clip": lambda x: np.clip(x, -1, 1),
    "argmax": lambda x: np.argmax(x, -1).astype(np.int32),
}


def numpy(program: Program, policy: LoadedPolicy) -> Made:
    """The weights of a plain network, and in the card how to multiply them.

    Which activation and which last step the policy has is found by trying all, on observations that reach
    from the middle of the data to far beyond: the one that acts as the policy does.
    """
    arrays = layers(policy) if len(program.inputs) == len(program.outputs) == 1 else None
    if arrays is None:
        raise BadInput(
            f"numpy holds plain networks, and {policy.algorithm} acts here by more than one: "
            "--format onnx or stablehlo" + (", or --mode mean" if "mean" in policy.modes else "")
        )
    rng = np.random.default_rng(0)
    far = 10.0 ** rng.uniform(-1, 3, (256, 1)) * rng.standard_normal((256, policy.spec.obs_dim))
    probes = (policy.obs_mean + policy.obs_std * far).astype(np.float32)
    wanted = np.asarray(jax.jit(jax.vmap(program.call))(probes)[0])
    discrete = isinstance(policy.spec.action, Discrete)

    def off(kind: tuple[str, str]) -> float:
        return float(np.abs(forward(arrays, *kind, probes) - wanted).mean())

    heads = ["argmax"] if discrete else ["tanh", "clip"]
    with np.errstate(over="ignore"):
        kind = min(((activation, head) for activation in ACTIVATIONS for head in heads), key=off)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    with np.load(io.BytesIO(file.getvalue()), allow_pickle=False) as read:
        read = dict(read)
    about = {"activation": kind[0], "head": kind[1], "layers": len(arrays_of(arrays, "kernel"))}
    return Made(file.getvalue(), lambda rows: [forward(read, *kind, rows[0])], about)


def layers(policy: LoadedPolicy) -> dict[str, np.ndarray] | None:
    """The arrays of the policy's network, those of its mean alone; None where it is no plain network."""
    params: Any = policy.params
    params = params if "hidden" in params else params.get("policy", {})
    if not {"hidden", "out"} <= params.keys() or np.ndim(params["out"]["kernel"]) != 2:
        return None
    space, found = policy.spec.action, {"obs_mean": policy.obs_mean, "obs_std": policy.obs_std}
    for i, layer in enumerate([*params["hidden"], params["out"]]):
        last = i == len(params["hidden"])
        # A Gaussian's network gives means, then spreads.
        keep = slice(space.dim) if last else slice(None)
        found[f"kernel_{i}"] = np.asarray(layer["kernel"])[:, keep]
        found[f"bias_{i}"] = np.asarray(layer["bias"])[keep]
    if not isinstance(space, Discrete):
        found |= {"low": np.asarray(space.low, np.float32), "high": np.asarray(space.high, np.float32)}
    return found


def forward(arrays: Mapping[str, np.ndarray], activation: str, head: str, obs: np.ndarray) -> np.ndarray:
    """Actions of observations (n, obs_dim): what docs/shipping.md writes down for every language."""
    x = (obs - arrays["obs_mean"]) / arrays["obs_std"]
    last = len(arrays_of(arrays, "kernel")) - 1
    for i in range(last):
        x = ACTIVATIONS[activation](x @ arrays[f"kernel_{i}"] + arrays[f"bias_{i}"])
    x = HEADS[head](x @ arrays[f"kernel_{last}"] + arrays[f"bias_{last}"])
    if head == "argmax":
        return x
    low, high = arrays["low"], arrays["high"]
    return np.clip(low + (x + 1) * (high - low) / 2, low, high)


def arrays_of(arrays: Mapping[str, np.ndarray], kind: str) -> list[str]:
    return [name for name in arrays if name.startswith(f"{kind}_")]


# --- What they share ---------------------------------------------------------

FORMATS: dict[str, tuple[str, Callable[[Program, LoadedPolicy], Made]]] = {
    "onnx": (".onnx", onnx),
    "stablehlo": (".stablehlo", stablehlo),
    "numpy": (".npz", numpy),
}
"""The end of the file's name, and the function that makes it."""


def specs(program: Program) -> list[jax.ShapeDtypeStruct]:
    """The inputs with a leading axis of any length, n."""
    scope = jax.export.SymbolicScope()
    (n,) = jax.export.symbolic_shape("n", scope=scope)
    return [jax.ShapeDtypeStruct((n, *port.shape), port.dtype) for port in program.inputs]


@contextmanager
def quiet() -> Iterator[None]:
    """jax2onnx and what it brings warn of their own matters; what came of it is checked afterwards."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def missing(format: str, package: str) -> BadInput:
    return BadInput(f"--format {format} needs {package}: pip install 'leashrl[export]'")
