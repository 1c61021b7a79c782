#!/usr/bin/env bash
# What one GPU gives: tests, speed beside TextBrewer and the TinyBERT recipe, what limits a step.
#
#   pip install -e '.[demo,dev]' textbrewer==0.2.1.post1
#   bench/device.sh [OUT] [--seconds 450] [--only steps,profile] [--commit HASH] [--smoke]
#
# Under eight minutes; a part that fails is written down and the next one begins. OUT (default
# bench/results) gets device-GPU-DATE.json. $LAYERMIX_GLUE names a folder with mrpc/train.tsv;
# without it the text is docstrings. $PYTHON is the Python to use. --smoke tries it all at toy
# sizes, without a GPU.
set -u
cd "$(dirname "$0")/.." || exit
[ -n "${PYTHON:-}" ] || { [ -x .venv/bin/python ] && PYTHON=.venv/bin/python; }
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "${PYTHON:-python3}" bench/device.py "$@"
