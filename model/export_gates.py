"""The gated blocks of an exported graph without a `Split`.

A block's expansion gives value and gate as the two halves of its channels, and a runtime copies both when a graph
splits them. Two convolutions with half of the weights each give the same numbers
without the copy. Torch is as fast either way, so it is the graph alone that is changed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir

HALVES = ("value", "gate")  # as `Block` takes them apart


def halve_gates(graph: "onnx_ir.Graph") -> int:
    """Put two convolutions in the place of each one whose channels are split in half.

    Args:
        graph: with its weights as initializers; changed in place. A half of the weights `x` is called `x.value` or
            `x.gate`.

    Returns:
        How many splits went away.
    """
    done = 0
    for split in [node for node in graph if node.op_type == "Split" and len(node.outputs) == 2]:
        spent: list[Any] = [split]
        halves = _halves(graph, split.inputs[0], spent)
        if halves is None:
            continue
        for whole, half in zip(split.outputs, halves, strict=True):
            whole.replace_all_uses_with(half)
        weights = [value.name for node in spent[1:] for value in node.inputs[1:]]
        graph.remove(spent, safe=True)
        for name in weights:
            del graph.initializers[name]
        done += 1
    return done


def _halves(graph: "onnx_ir.Graph", whole: Any, spent: list[Any]) -> list[Any] | None:
    """Both halves of what a convolution gives, each by a convolution of its own; None where that cannot be.

    A depthwise convolution takes the halves of the convolution before it.

    Args:
        graph: where the new convolutions are put.
        whole: the value; nothing else may use it.
        spent: takes the nodes that are of no use any more.
    """
    import onnx_ir

    node = whole.producer()
    if node is None or node.op_type != "Conv" or len(whole.uses()) != 1:
        return None
    weights = node.inputs[1].const_value
    group = node.attributes["group"].as_int()
    if weights is None or weights.shape[0] % 2 or group not in (1, weights.shape[0]):
        return None
    channels = weights.shape[0]
    spent.append(node)
    sources = [node.inputs[0]] * 2 if group == 1 else _halves(graph, node.inputs[0], spent)
    if sources is None:
        return None
    attributes = {name: value.value for name, value in node.attributes.items()}
    found = []
    for index, (source, half) in enumerate(zip(sources, HALVES, strict=True)):
        part = slice(index * channels // 2, (index + 1) * channels // 2)
        inputs = [source, *(_part(graph, value, part, half) for value in node.inputs[1:])]
        new = onnx_ir.node(
            "Conv",
            inputs,
            {**attributes, "group": 1 if group == 1 else channels // 2},
            name=f"{node.name}_{half}",
        )
        new.outputs[0].name = f"{whole.name}_{half}"
        graph.insert_before(node, new)
        found.append(new.outputs[0])
    return found


def _part(graph: "onnx_ir.Graph", value: Any, part: slice, half: str) -> Any:
    """A part of a weight as an initializer of its own."""
    import onnx_ir

    name = f"{value.name}.{half}"
    tensor = onnx_ir.Tensor(value.const_value.numpy()[part].copy(), name=name)
    made = onnx_ir.Value(name=name, shape=tensor.shape, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(made)
    return made
