"""Takes from downloaded wheels just the files Octrain needs. Called by scripts/setup.sh.

usage: unpack.py native|nvrtc|cuda WHEELS DESTINATION

A wheel is a zip file, so nothing is installed and nothing else is written. Every rule below must match at
least one file, so that a wheel laid out differently is an error here and not a missing library later.
"""

import os
import re
import shutil
import sys
import zipfile

# wheel's name -> [(what to take, a pattern on the path inside; where it goes, with the pattern's groups)]
NATIVE = {
    "torch": [
        (r"torch/lib/(libc10\.so|libtorch_cpu\.so|libgomp\.so\.1|libshm\.so)", r"libtorch/lib/\1"),
        (r"torch/(include/.+)", r"libtorch/\1"),
    ],
    "nvidia_cuda_runtime": [(r"nvidia/cu13/lib/(libcudart\.so\.13)", r"libtorch/lib/\1")],
    "nvidia_cuda_cupti": [(r"nvidia/cu13/lib/(libcupti\.so\.13)", r"libtorch/lib/\1")],
    "openvino": [(r"openvino/libs/([^/]+)", r"openvino/lib/\1")],
    "onnxruntime": [(r"onnxruntime/capi/(libonnxruntime[^/]*\.so[.0-9]*)", r"onnxruntime/lib/\1")],
    "scikit_learn": [(r"sklearn/datasets/data/(digits\.csv\.gz)", r"digits/\1")],
}

CUDA_PARTS = "cublas cuda_nvrtc cudnn_cu13 cufft cufile curand cusolver cusparse cusparselt_cu13 nccl_cu13"
CUDA_PARTS += " nvjitlink nvshmem_cu13 nvtx"
CUDA = {f"nvidia_{part}": [(r"nvidia/[^/]+/lib/([^/]+\.so[.0-9]*)", r"lib/\1")] for part in CUDA_PARTS.split()}
NVRTC = {"nvidia_cuda_nvrtc": CUDA["nvidia_cuda_nvrtc"]}
CUDA["torch"] = [
    (r"torch/lib/(libtorch_cuda\w*\.so|libc10_cuda\.so|libcaffe2_nvrtc\.so|libtorch_nvshmem\.so)", r"lib/\1"),
]


def wheel_of(name, folder):
    found = [f for f in os.listdir(folder) if f.startswith(name + "-") and f.endswith(".whl")]
    # The oracles may have brought the same wheel for another Python; the pinned one is CPython 3.11's.
    found = [f for f in found if "-cp311-" in f or "-py3-" in f or "-py2.py3-" in f]
    if len(found) != 1:
        sys.exit(f"unpack: expected one wheel of {name} in {folder}, found {found or 'none'}")
    return os.path.join(folder, found[0])


def take(name, rules, wheels, dest):
    path = wheel_of(name, wheels)
    with zipfile.ZipFile(path) as wheel:
        files = [f for f in wheel.namelist() if not f.endswith("/")]
        for pattern, target in rules:
            matches = [(f, m) for f in files if (m := re.fullmatch(pattern, f))]
            if not matches:
                sys.exit(f"unpack: {os.path.basename(path)} has no file like {pattern}")
            for file, match in matches:
                copy(wheel, file, os.path.join(dest, match.expand(target)))
        for file in files:  # what may be passed on only together with its licence
            if re.search(r"\.dist-info/(licenses/.*|[^/]*(LICEN[CS]E|NOTICE|License)[^/]*)$", file) or re.fullmatch(
                r"\w+/(LICENSE|ThirdPartyNotices\.txt)", file
            ):
                copy(wheel, file, os.path.join(dest, "licenses", name, os.path.basename(file)))


def copy(wheel, member, target):
    if ".." in target.split(os.sep):
        sys.exit(f"unpack: refusing the path {member}")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with wheel.open(member) as source, open(target, "wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)


def link_unversioned(folder):
    """libx.so -> libx.so.1, the name a linker or a dlopen without a version asks for."""
    for file in sorted(os.listdir(folder)):
        plain = re.sub(r"\.so[.0-9]+$", ".so", file)
        if plain != file and not os.path.lexists(os.path.join(folder, plain)):
            os.symlink(file, os.path.join(folder, plain))


def main():
    parts = {"native": NATIVE, "nvrtc": NVRTC, "cuda": CUDA}
    if len(sys.argv) != 4 or sys.argv[1] not in parts:
        sys.exit(__doc__)
    part, wheels, dest = sys.argv[1:]
    for name, rules in parts[part].items():
        take(name, rules, wheels, dest)
    if part == "native":
        link_unversioned(os.path.join(dest, "openvino", "lib"))
        link_unversioned(os.path.join(dest, "onnxruntime", "lib"))
        # torch-sys links -ltorch. The wheel's own libtorch.so would pull in all of CUDA; this linker script
        # names the CPU library alone, and libtorch_cuda.so is loaded at start-up where there is a GPU.
        with open(os.path.join(dest, "libtorch", "lib", "libtorch.so"), "w") as script:
            script.write("INPUT(libtorch_cpu.so)\n")
    elif part == "nvrtc":
        link_unversioned(os.path.join(dest, "lib"))
    else:
        lib = os.path.join(dest, "lib")
        link_unversioned(lib)
        # libtorch_cuda.so looks for these beside itself.
        for file in ("libc10.so", "libtorch_cpu.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"):
            os.symlink(os.path.join("..", "..", "libtorch", "lib", file), os.path.join(lib, file))


main()
