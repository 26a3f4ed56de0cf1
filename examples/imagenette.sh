#!/bin/sh
# From images to a tested backbone in one go: pretrain, linear classification, evaluation on train and validation, report.
#
#     examples/imagenette.sh DATA OUT RECIPE [more options of moco pretrain]
#
# Start it again after a stop, a crash or a time limit: each step that is done is passed over, and a pre-training that was
# cut off goes on to the same bits.
set -eu
if [ $# -lt 3 ]; then
    echo "usage: $0 DATA OUT RECIPE [options of moco pretrain]" >&2
    exit 2
fi
data=$1 out=$2 recipe=$3
shift 3

if [ -e "$out/config.yaml" ]; then
    echo "$out has begun: it goes on with its own recipe and data; options must be its own" >&2
    moco pretrain --resume "$out" "$@"
else
    moco pretrain --recipe "$recipe" --data "$data" --out "$out" "$@"
fi
[ -e "$out/linear/result.json" ] || moco linear "$out"
moco evaluate "$out"
moco report "$out"
