#!/bin/sh
# trim.sh TREE PLACE: take out of installed packages what no running program reads, and compile the rest.
# TREE is where they were installed, PLACE where they will lie. A read-only root file system has no room for a cache of
# compiled files, so they are made now; unchecked, so that the times of files do not matter.
set -eu
tree=$1
place=$2
packages=$tree/lib/python3.11/site-packages

# Tests of packages, headers and static libraries; not those that Triton builds its helper with.
find "$packages" -depth -type d \( -name tests -o -name include \) ! -path '*/triton/*' -exec rm -rf {} +
find "$packages" -type f \( -name '*.a' -o -name '*.h' -o -name '*.hpp' -o -name '*.pxd' -o -name '*.pyi' \) \
  ! -path '*/triton/*' -delete
rm -rf "$packages/torch/share" "$tree/share/man"

find "$tree" -type d -name __pycache__ -prune -exec rm -rf {} +
# Templates of code in some packages are no code themselves: what does not compile is left as it is.
/opt/mistudio/bin/python -m compileall -q -j 0 -s "$tree" -p "$place" --invalidation-mode unchecked-hash "$packages" || true
