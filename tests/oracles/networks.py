"""The networks as PyTorch modules, by Octrain's names: torchvision's own where it has them, else written here independently
of Octrain's graphs with timm's parameter names. Nothing is left out at random (dropout, stochastic depth) unless asked for."""

import torch
import torchvision
from torch import nn

import resnet

TORCHVISION = {
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV2-32px": "mobilenet_v2",
    "MobileNetV3-Small": "mobilenet_v3_small",
    "MobileNetV3-Large": "mobilenet_v3_large",
    "EfficientNet-B0": "efficientnet_b0",
    "RegNetX-400MF": "regnet_x_400mf",
    "RegNetY-400MF": "regnet_y_400mf",
}
# Side of a patch, width, heads, depth.
TRANSFORMERS = {"ViT-Ti": (16, 192, 3, 12), "ViT-S": (16, 384, 6, 12), "ViT-32px": (4, 128, 4, 6)}


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, t, d))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    def __init__(self, channels, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    def __init__(self, channels, side, classes, patch, width, heads, depth):
        super().__init__()
        self.patch_embed = Patches(channels, width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class Same(nn.Conv2d):
    """TensorFlow's padding."""

    def forward(self, x):
        sides = []
        for size, kernel, stride in zip(reversed(x.shape[2:]), reversed(self.kernel_size), reversed(self.stride)):
            wanted = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [wanted // 2, wanted - wanted // 2]
        return super().forward(nn.functional.pad(x, sides))


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Separable(nn.Module):
    """The first stage: depthwise and pointwise."""

    def __init__(self, inputs, out, kernel, stride):
        super().__init__()
        self.conv_dw, self.bn1 = Same(inputs, inputs, kernel, stride, groups=inputs, bias=False), norm(inputs)
        self.conv_pw, self.bn2 = nn.Conv2d(inputs, out, 1, bias=False), norm(out)

    def forward(self, x):
        return self.bn2(self.conv_pw(nn.functional.relu6(self.bn1(self.conv_dw(x)))))


class Inverted(nn.Module):
    def __init__(self, inputs, out, kernel, stride):
        super().__init__()
        wide = 6 * inputs
        self.conv_pw, self.bn1 = nn.Conv2d(inputs, wide, 1, bias=False), norm(wide)
        self.conv_dw, self.bn2 = Same(wide, wide, kernel, stride, groups=wide, bias=False), norm(wide)
        self.conv_pwl, self.bn3 = nn.Conv2d(wide, out, 1, bias=False), norm(out)
        self.residual = stride == 1 and inputs == out

    def forward(self, x):
        y = nn.functional.relu6(self.bn1(self.conv_pw(x)))
        y = nn.functional.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.residual else y


class Lite0(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv_stem, self.bn1 = Same(channels, 32, 3, 2, bias=False), norm(32)
        stages, inputs = [], 32
        for i, (kernel, stride, out, repeats) in enumerate(
            [(3, 1, 16, 1), (3, 2, 24, 2), (5, 2, 40, 2), (3, 2, 80, 3), (5, 1, 112, 3), (5, 2, 192, 4), (3, 1, 320, 1)]
        ):
            block, blocks = Inverted if i else Separable, []
            for j in range(repeats):
                blocks.append(block(inputs, out, kernel, stride if j == 0 else 1))
                inputs = out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2 = nn.Conv2d(320, 1280, 1, bias=False), norm(1280)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x):
        x = self.blocks(nn.functional.relu6(self.bn1(self.conv_stem(x))))
        return self.classifier(nn.functional.relu6(self.bn2(self.conv_head(x))).mean((2, 3)))


def build(model, channels, classes, side, random=False):
    if model in TORCHVISION:
        assert channels == 3, model
        net = torchvision.models.get_model(TORCHVISION[model], num_classes=classes)
        if model == "MobileNetV2-32px":
            net.features[0][0].stride = net.features[2].conv[1][0].stride = (1, 1)
    elif model in TRANSFORMERS:
        net = VisionTransformer(channels, side, classes, *TRANSFORMERS[model])
    elif model == "EfficientNet-Lite0":
        net = Lite0(channels, classes)
    else:
        net = resnet.build(model, channels, classes)
    for module in () if random else net.modules():
        if isinstance(module, (nn.Dropout, torchvision.ops.StochasticDepth)):
            module.p = 0.0
    return net
