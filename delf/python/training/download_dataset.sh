#!/bin/bash
# Downloads Google Landmarks v2: photos, CSV files and ground truth.
#
#   download_dataset.sh TRAIN INDEX TEST [options of delf download]
#
# TRAIN, INDEX and TEST say how many tar files of each split are wanted, from the
# first on: at most 500, 100 and 20 (of about 1, 0.85 and 0.5 GB); of 0, the CSV
# files alone. They go to gldv2_dataset/{train,index,test} in the current folder,
# six at a time, each compared with its published MD5. The same command goes on
# where an earlier one ended. Options are, among others:
#
#   --ignore-checksum   takes files of another MD5 than published, too
#   --mirror URL        address of a copy of the data set
#   --dry-run           says what there is to do
set -uo pipefail

readonly NAMES=(train index test)
readonly MOST=(500 100 20)
readonly AT_ONCE=6

fail() {
  echo "$0: $1" >&2
  exit 1
}

check() {
  [ "$#" -ge 3 ] || fail "expected three numbers: TRAIN INDEX TEST, received $#"
  local counts=("$@") i
  for i in 0 1 2; do
    # Four digits at most, and read as decimal: 010 is ten.
    if ! [[ "${counts[i]}" =~ ^[0-9]{1,4}$ ]] ||
      [ "$((10#${counts[i]}))" -gt "${MOST[i]}" ]; then
      fail "expected 0 to ${MOST[i]} for ${NAMES[i]}, received '${counts[i]}'"
    fi
  done
  command -v python3 > /dev/null || fail "expected python3, received no such program"
  python3 -c "import delf" 2> /dev/null ||
    fail "expected delf to be installed for $(command -v python3); install_delf.sh does that"
}

download() {
  local split="$1" count="$((10#$2))" parts=(--no-images)
  shift 2
  if [ "$count" -gt 0 ]; then
    parts=(--parts "0-$((count - 1))")
  fi
  python3 -m delf download gldv2 --split "$split" "${parts[@]}" \
    --out . --at-once "$AT_ONCE" "$@"
}

check "$@"
counts=("${@:1:3}")
shift 3
status=0
for i in 0 1 2; do
  download "${NAMES[i]}" "${counts[i]}" "$@"
  code="$?"
  # Of a signal or an interrupt; else the other splits are worth a try.
  [ "$code" -lt 128 ] || exit "$code"
  [ "$code" -eq 0 ] || status=1
done
exit "$status"
