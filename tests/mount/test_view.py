"""Every tensor of the kit's checkpoints and edge files, in every precision, packed and decoded, as
the main view and as a view below .tensorport/views: the bytes are those of numpy.save, and numpy
(read and mapped) and JAX load the values."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_X64"] = "1"  # else jnp.load cuts F64 and I64 to 32 bits

import numpy as np  # noqa: E402

from compare import HIDDEN_VIEWS, LOADERS, check_view, load_mapped  # noqa: E402
from generate import hard_float64, write_file  # noqa: E402
from harness import KIT, Mount, checkpoint, main, reference, scratch, test  # noqa: E402
from reference import BF16, PRECISIONS, is_nan, same_bits  # noqa: E402

EDGE_FILES = sorted((KIT / "files/edge").glob("*.safetensors"))
MODES = [(precision, packed) for precision in PRECISIONS for packed in (False, True)]


def options(precision, packed):
    return ["--precision", precision, "--mxfp4", "packed" if packed else "decode"]


def check_modes(source, modes=MODES, loaders=LOADERS, **selection):
    ref = reference(source)
    for precision, packed in modes:
        with Mount(source, *options(precision, packed)) as mount:
            check_view(mount.path, ref, precision, packed, loaders, **selection)


def check_hidden_views(source, loaders=LOADERS, **selection):
    ref = reference(source)
    with Mount(source, "--precision", "float16") as mount:
        for name, (precision, packed) in HIDDEN_VIEWS.items():
            view = mount.path / ".tensorport/views" / name
            check_view(view, ref, precision, packed, loaders, **selection)


@test
def tiny_in_every_precision():
    check_modes(checkpoint("tiny"))
    check_hidden_views(checkpoint("tiny"))


@test
def llama_in_every_precision():
    check_modes(checkpoint("llama"))
    check_hidden_views(checkpoint("llama"))


@test
def mistral_in_every_precision():
    check_modes(checkpoint("mistral"), loaders=[load_mapped])


@test
def small_in_every_precision():
    modes = [(precision, False) for precision in PRECISIONS] + [("source", True)]
    check_modes(checkpoint("small"), modes, loaders=[])
    check_hidden_views(checkpoint("small"), loaders=[load_mapped],
                       wanted=lambda name: ".2." in name or "layers" not in name)


@test
def mid_in_full_as_float32():
    check_modes(checkpoint("mid"), [("float32", False)], loaders=[])


@test
def mid_in_full_as_packed():
    check_modes(checkpoint("mid"), [("source", True)], loaders=[])


@test
def mid_in_part_in_the_other_precisions():
    modes = [("float16", False), ("bfloat16", False), ("source", False)]
    check_modes(checkpoint("mid"), modes, loaders=[],
                wanted=lambda name: ".layers.10." in name or name == "model.norm.weight")


@test
def edge_files_in_every_precision():
    assert len(EDGE_FILES) >= 15
    for file in EDGE_FILES:
        check_modes(file)
        check_hidden_views(file, loaders=[])


# ---------------------------------------------------------------- against the kit's golden numbers

def golden(name):
    return np.load(KIT / "goldens/numbers" / f"{name}.npy")


def write_golden_checkpoint(folder):
    """All of bf16 and f16, float32 values that are hard to round, all MXFP4 codes and scales."""
    every = np.arange(65536, dtype="<u2")
    stored = {
        "bf16": ("BF16", every), "f16": ("F16", every), "hard": ("F32", golden("hard_f32_bits")),
        "mxfp4_blocks": ("U8", golden("mxfp4_blocks").reshape(256, 1, 16)),
        "mxfp4_scales": ("U8", golden("mxfp4_scales").reshape(256, 1)),
        "layout_blocks": ("U8", golden("layout_blocks")), "layout_scales": ("U8", golden("layout_scales")),
    }
    return write_file(folder / "golden.safetensors", {
        name: (dtype, array.shape, array.tobytes()) for name, (dtype, array) in stored.items()})


@test
def conversions_equal_the_golden_tables():
    """These tables come from torch: they share no code with ml_dtypes, which the rest trusts."""
    f32, f16, bf16 = ("float32", np.dtype("<f4")), ("float16", np.dtype("<f2")), ("bfloat16", BF16)
    tables = [(f32, "bf16", golden("bf16_to_f32_bits")), (f16, "bf16", golden("bf16_to_f16_bits")),
              (f32, "f16", golden("f16_to_f32_bits")), (bf16, "f16", golden("f16_to_bf16_bits")),
              (f16, "hard", golden("hard_f16_bits")), (bf16, "hard", golden("hard_bf16_bits")),
              (f32, "mxfp4", golden("mxfp4_f32")), (f16, "mxfp4", golden("mxfp4_f16_bits")),
              (bf16, "mxfp4", golden("mxfp4_bf16_bits")), (f32, "layout", golden("layout_native_f32"))]
    with scratch() as folder, Mount(write_golden_checkpoint(folder)) as mount:
        for (precision, dtype), name, table in tables:
            view = mount.path / ".tensorport/views" / precision
            file, = view.glob(f"shard_*/{name}.npy")
            fault = same_bits(np.load(file).view(dtype), table.view(dtype))
            assert fault is None, f"{name} as {precision}: {fault}"


@test
def float64_is_rounded_once():
    values = hard_float64(2000, seed=1)
    assert not is_nan(values).any() and np.isfinite(values).all()
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, 1.7e308, 2.0 ** -134, 2.0 ** -133,
                        3.3961e38, 65519.99, 65520.0, 2.0 ** -25, 2.0 ** -25 * (1 + 2.0 ** -50)])
    values = np.concatenate([values, special, -special])
    with scratch() as folder:
        file = write_file(folder / "hard.safetensors", {"hard": ("F64", values.shape, values.tobytes())})
        check_modes(file)


@test
def every_f8_value():
    every = bytes(range(256))
    with scratch() as folder:
        file = write_file(folder / "f8.safetensors", {
            dtype: (dtype, (16, 16), every) for dtype in ("F8_E4M3", "F8_E5M2", "F8_E8M0")})
        check_modes(file)


main()
