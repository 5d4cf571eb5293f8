"""Forward, loss, gradients and optimizer steps in PyTorch from given weights and batches.

    train_steps.py IN.safetensors OUT.safetensors '{"model":..., "classes":..., "lr":[...], ...}'

IN: the network's parameters and buffers, `images.<step>.<microbatch>`, `labels.<step>.<microbatch>`.
OUT: `logits` and `grad.<param>` (clipped) of the first step, `loss.<step>`, `norm.<step>` (before clipping), then `final.<name>` after all steps.
"""

import json
import sys

import torch

import networks
import safetensors_io


def main(source, target, settings):
    torch.set_num_threads(2)
    given = safetensors_io.load(source)
    state = {k: torch.from_numpy(v) for k, v in given.items() if not k.startswith(("images.", "labels."))}
    net = networks.build(settings["model"], settings["channels"], settings["classes"], settings["side"])
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected and all(m.endswith("num_batches_tracked") for m in missing), (missing, unexpected)
    # The same kernels on both sides: another memory order rounds otherwise, and where a value near zero then falls on
    # the other side of a ReLU, a gradient differs by whole samples.
    order = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}[settings["layout"]]
    net = net.to(memory_format=order)
    net.train()
    normalising = (torch.nn.BatchNorm2d, torch.nn.LayerNorm)
    norms = [p for m in net.modules() if isinstance(m, normalising) for p in m.parameters()]
    embeddings = [p for n, p in net.named_parameters() if n in ("cls_token", "pos_embed")]
    others = [p for p in net.parameters() if not any(p is q for q in norms + embeddings)]
    weights, biases = [p for p in others if p.ndim > 1], [p for p in others if p.ndim == 1]
    groups = [
        {"params": weights, "weight_decay": settings["weight_decay"]},
        {"params": norms, "weight_decay": settings.get("norm_weight_decay", 0.0)},
        {"params": biases, "weight_decay": settings.get("bias_weight_decay", 0.0)},
        {"params": embeddings, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings["rule"] == "sgd":
        momentum, nesterov = settings["momentum"], settings["nesterov"]
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=momentum, nesterov=nesterov)
    else:
        betas = (settings["beta1"], settings["beta2"])
        optimizer = torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=settings["epsilon"])
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=settings["label_smoothing"])
    out, microbatches = {}, settings["microbatches"]
    for step, lr in enumerate(settings["lr"]):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        total = 0.0
        before = {n: b.clone() for n, b in net.named_buffers()}
        sums = {n: torch.zeros_like(b) for n, b in net.named_buffers() if "running" in n}
        for m in range(microbatches):
            # Each microbatch moves the statistics from the same start; the step takes their mean.
            with torch.no_grad():
                for n, b in net.named_buffers():
                    b.copy_(before[n])
            images = torch.from_numpy(given[f"images.{step}.{m}"])
            logits = net(images.contiguous(memory_format=order))
            loss = criterion(logits, torch.from_numpy(given[f"labels.{step}.{m}"]))
            (loss / microbatches).backward()
            total += loss.item() / microbatches
            for n, b in net.named_buffers():
                if n in sums:
                    sums[n] += b
            if step == 0 and m == 0:
                out["logits"] = logits.detach().numpy()
        with torch.no_grad():
            for n, b in net.named_buffers():
                if n in sums:
                    b.copy_(sums[n] / microbatches)
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), settings["clip_norm"] or torch.inf)
        out[f"norm.{step}"] = norm.reshape(1).numpy()
        if step == 0:
            out.update({f"grad.{n}": p.grad.numpy().copy() for n, p in net.named_parameters()})
        out[f"loss.{step}"] = torch.tensor([total]).numpy()
        optimizer.step()
    out.update({f"final.{n}": v.numpy() for n, v in net.state_dict().items() if v.dtype == torch.float32})
    safetensors_io.save(target, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
