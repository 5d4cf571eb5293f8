"""A ResNet-50 of paddle.vision as a folder of PaddlePaddle's, trained for a step, with what it computes of images.

    paddle_resnet.py old|new NCHW|NHWC CHANNELS float32|float16|bfloat16 infer|train|dynamic SIDE CLASSES FOLDER OUT.safetensors

`old` and `new`: a `.pdmodel` or the `.json` of Paddle 3. FOLDER gets `resnet_50_paddle.*`: of `infer` the program for
inference with its `.pdiparams`, of `train` that of training with its `.pdparams`, of `dynamic` the `.pdparams` of modules
without a program; and the optimizer's `.pdopt`. OUT: `images` (channels first, 4th channel random too), `logits` of them in
evaluation, and `velocity.NAME` of every trained parameter by torchvision's name. Needs paddlepaddle 3.3.1 and setuptools.
"""

import json
import os
import pathlib
import sys

FORM, LAYOUT, CHANNELS, KIND, WHAT, SIDE, CLASSES, FOLDER, OUT = sys.argv[1:]
os.environ["FLAGS_enable_pir_api"] = "0" if FORM == "old" else "1"
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "worker/formats/tests/fixtures/paddle"))

import numpy
import paddle
import write
import safetensors_io


def ours(name, value):
    """A parameter of Paddle's module by torchvision's name, its layer's weight as torchvision has it."""
    name = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
    return name, numpy.ascontiguousarray(value.T) if value.ndim == 2 else value


def small(name, shape):
    """BatchNorm's numbers that are not those of a new network, so that none can be taken for another."""
    return (numpy.random.rand(*shape) * 0.5 + 0.75).astype("float32")


def images(count, channels, side):
    chw = numpy.random.randn(count, channels, side, side).astype("float32")
    return chw, chw if LAYOUT == "NCHW" else numpy.ascontiguousarray(chw.transpose(0, 2, 3, 1))


def narrow(value):
    if KIND == "float16":
        return value.astype("float16")
    return (value.view("uint32") >> 16).astype("uint16")


def widened(value):
    narrowed = narrow(value)
    if KIND == "float16":
        return narrowed.astype("float32")
    return (narrowed.astype("uint32") << 16).view("float32")


def static(channels, side, classes, place):
    made = []

    def make(layout, channels):
        made.append(write.network("resnet50", layout, channels, classes))
        return made[0]

    main, test, image, logits, exe = write.program(make, LAYOUT, channels, side)
    structured = {name: value.name for name, value in made[0].state_dict().items()}
    scope = paddle.static.global_scope()
    held = lambda name: scope.find_var(name).get_tensor()
    for module, name in structured.items():
        if "bn" in module or "downsample.1" in module:
            held(name).set(small(name, held(name).shape()), paddle.CPUPlace())
    _, fed = images(4, channels, side)
    labels = numpy.random.randint(0, classes, (4, 1)).astype("int64")
    if FORM == "new":
        # The program is one for both there, so that evaluation is asked of one of its own.
        test = None
    exe.run(main, feed={"image": fed, "label": labels}, fetch_list=[])
    if KIND != "float32":
        for name in structured.values():
            held(name).set(widened(numpy.array(held(name))), paddle.CPUPlace())
    if WHAT == "train":
        paddle.static.save(main, place)
    else:
        # The optimizer's file is that of the training, the program that of inference.
        paddle.static.save(main, place)
        for end in [".pdmodel", ".json", ".pdparams"]:
            pathlib.Path(place + end).unlink(missing_ok=True)
        values = {name: numpy.array(held(name)) for name in structured.values()}
        if KIND != "float32":
            for name, value in values.items():
                held(name).set(narrow(value), paddle.CPUPlace())
        paddle.static.save_inference_model(place, [image], [logits], exe, program=test or main)
        for name, value in values.items():
            held(name).set(value, paddle.CPUPlace())
    velocity = {}
    for module, name in structured.items():
        found = scope.find_var(name + "_velocity_0")
        if found:
            key, value = ours(module, numpy.array(found.get_tensor()))
            velocity["velocity." + key] = value
    return {module: numpy.array(held(name)) for module, name in structured.items()}, velocity


def dynamic(channels, side, classes, place):
    paddle.disable_static()
    net = write.network("resnet50", LAYOUT, channels, classes)
    state = net.state_dict()
    net.set_state_dict({k: paddle.to_tensor(small(k, v.shape)) for k, v in state.items() if "bn" in k or "downsample.1" in k})
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(0.1, 10)
    optimizer = paddle.optimizer.Momentum(schedule, 0.875, parameters=net.parameters(), weight_decay=2.0**-15)
    _, fed = images(4, channels, side)
    loss = paddle.nn.functional.cross_entropy(net(paddle.to_tensor(fed)), paddle.randint(0, classes, [4, 1]))
    loss.backward()
    optimizer.step()
    paddle.save(net.state_dict(), place + ".pdparams")
    paddle.save(optimizer.state_dict(), place + ".pdopt")
    velocity = {}
    for module, parameter in net.named_parameters():
        found = optimizer.state_dict().get(parameter.name + "_velocity_0")
        if found is not None:
            key, value = ours(module, found.numpy())
            velocity["velocity." + key] = value
    return {k: v.numpy() for k, v in net.state_dict().items()}, velocity


def main():
    channels, side, classes = int(CHANNELS), int(SIDE), int(CLASSES)
    numpy.random.seed(channels)
    paddle.seed(channels)
    pathlib.Path(FOLDER).mkdir(parents=True, exist_ok=True)
    place = str(pathlib.Path(FOLDER) / "resnet_50_paddle")
    weights, velocity = (dynamic if WHAT == "dynamic" else static)(channels, side, classes, place)
    # Computed by Paddle's modules, in evaluation.
    paddle.disable_static()
    net = write.network("resnet50", LAYOUT, channels, classes)
    net.set_state_dict({name: paddle.to_tensor(value) for name, value in weights.items()})
    net.eval()
    chw, fed = images(2, channels, side)
    with paddle.no_grad():
        logits = net(paddle.to_tensor(fed)).numpy()
    safetensors_io.save(OUT, {"images": chw, "logits": logits, **velocity})
    print(json.dumps({"paddle": paddle.__version__, "velocities": len(velocity)}))


main()
