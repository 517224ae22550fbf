#!/usr/bin/env bash
# Runs torch's own test/optim/test_swa_utils.py against swa_fast.torch, only its import line changed.
# The file is not ours and is not kept here: it comes from Debian's source package of torch 2.6.0,
# whose swa_utils tests are those of later releases that we looked at. Needs curl, xz, and an
# environment with swa_fast, torch, pytest and expecttest:
#   pip install "swa-fast[torch]" pytest expecttest && tools/run_torch_own_tests.sh
set -euo pipefail
python=${PYTHON:-python3}
url=http://deb.debian.org/debian/pool/main/p/pytorch/pytorch_2.6.0+dfsg.orig.tar.xz
member=pytorch-v2.6.0/test/optim/test_swa_utils.py
sha256=eada8874686ce77e217df4b00b2e97dcc8f1b14d58ce5f97ba65a8f3edf6084b

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
curl -fsS -o "$work/torch.tar.xz" "$url"
tar -xf "$work/torch.tar.xz" -C "$work" "$member"
echo "$sha256  $work/$member" | sha256sum --check --quiet
sed 's/^from torch\.optim\.swa_utils import/from swa_fast.torch import/' "$work/$member" \
  >"$work/test_swa_utils.py"
diff "$work/$member" "$work/test_swa_utils.py" || true
test "$(diff "$work/$member" "$work/test_swa_utils.py" | grep -c '^>')" = 1
cd "$work"
"$python" -m pytest -q test_swa_utils.py
