#!/bin/sh
# The whole way on a toy world, without a GPU: videos, shards, pretraining, probe, report.
# Started again, it goes on where it stopped.
set -eu
demo=${1:-demo}
mkdir -p "$demo"

shards() { # NAME VIDEOS SEED
    if [ ! -e "$demo/videos-$1/labels.csv" ]; then
        rm -rf "$demo/videos-$1"
        xdc-shard toy "$demo/videos-$1" --videos "$2" --seed "$3"
    fi
    xdc-shard pack "$demo/videos-$1" "$demo/shards-$1" --short-side 40 \
        --labels "$demo/videos-$1/labels.csv"
}

echo "1/4 toy videos, packed into shards"
shards train 1500 1
shards probe 1000 2
echo "2/4 pretraining with XDC, which reads no label"
xdc pretrain recipes/toy.yaml "data=$demo/shards-train" "out=$demo/run"
echo "3/4 linear probe of the class, on videos that pretraining never saw"
xdc probe "$demo/run" --data "$demo/shards-probe" --label class > "$demo/probe.txt"
echo "4/4 report"
report=$(xdc report "$demo/run")
echo
cat "$demo/probe.txt"
echo "the report: $report"
