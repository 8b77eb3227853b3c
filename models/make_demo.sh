#!/bin/sh
# Remakes models/demo and models/golden from nothing. Needs models/requirements.txt installed;
# PYTHON names the interpreter, PHI4D_DEMO_WORK the folder for the checkpoint (default models/work).
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
# Threads that spin for work stall each other on a busy machine.
export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 ORT_DISABLE_TELEMETRY=1
for step in tokenizer train export accuracy golden; do
    echo "== $step"
    "$python" -m "make_demo.$step"
done
"$python" checks/check_random.py
