"""Packaging: `kernels/` and `tools/` are installed under `xdc_fast`, the one top-level import."""

from setuptools import setup

SUBPACKAGES = (
    *("shards", "packing", "packing.datasets", "clips", "encoders", "clusters", "pretraining"),
    *("models", "planner", "evaluation", "report"),
)

ONNX = ["onnx>=1.18", "onnxruntime>=1.20", "onnxscript>=0.5"]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff==0.17.*",
    "mypy==1.*",
    "types-PyYAML",
    "types-tqdm",
    *ONNX,
]
RAY = ["ray>=2.40"]
DOCS = ["sphinx>=8.1", "myst-parser>=4", "furo>=2024.8.6", "sphinx-click>=6"]
# peers; a missing one is named
BENCH = ["torchcodec==0.11.*", "librosa>=0.11", "nnAudio>=0.3.4", "imageio-ffmpeg>=0.6"]

setup(
    name="xdc_fast",
    version="0.1.0",
    description="Cross-Modal Deep Clustering of audio and video, from raw videos to encoders",
    license="MIT",
    python_requires=">=3.10",
    packages=[
        "xdc_fast",
        *(f"xdc_fast.{name}" for name in SUBPACKAGES),
        "xdc_fast.kernels",
        "xdc_fast.tools",
    ],
    package_dir={"xdc_fast.kernels": "kernels", "xdc_fast.tools": "tools"},
    package_data={"xdc_fast": ["py.typed"], "xdc_fast.report": ["*.html", "*.css", "*.js"]},
    install_requires=[
        # torchaudio loads beside the build that it was made for: 2.11.1 not beside torch 2.11.0
        "torch==2.11.0",
        "torchaudio==2.11.0",
        "nvidia-dali-cuda130>=2.4",
        "faiss-gpu>=1.15",
        "webdataset>=1.0",
        "numba>=0.61",
        "numba-cuda[cu13]>=0.30",  # the extra holds libNVVM; without it no kernel compiles
        "numpy>=1.26,<2.5",  # numba-cuda 0.30.4, the newest, asks for numpy.row_stack, gone in 2.5
        "av>=17",
        "obstore>=0.11",
        "simplejpeg>=1.8",
        "safetensors>=0.5",
        "scikit-learn>=1.5",
        "scipy>=1.11",
        "click>=8.1",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "pyyaml>=6",
        "tensorboard>=2.18",
        "tqdm>=4.66",
    ],
    extras_require={"test": TEST, "bench": BENCH, "docs": DOCS, "onnx": ONNX, "ray": RAY},
    entry_points={
        "console_scripts": [
            "xdc-shard = xdc_fast.tools.shard:main",
            "xdc = xdc_fast.tools.xdc:main",
        ]
    },
)
