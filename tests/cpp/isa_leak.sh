#!/bin/sh
# Nothing compiled for a newer CPU may lie where an older one could run it: only functions of
# swa_fast::cpu::avx2 and avx512 may use what SSE2 lacks, and avx2 nothing that AVX2 lacks.
#
# usage: isa_leak.sh OBJDUMP LIBRARY. Exit status 77 where there is nothing to look with or at.
objdump=$1
library=$2
command -v "$objdump" >/dev/null 2>&1 || { echo "no objdump: skipped"; exit 77; }
"$objdump" -f "$library" 2>/dev/null | grep -q x86-64 || { echo "not x86-64: skipped"; exit 77; }

# Mangled names: a prefix of them is the namespace, whatever the function returns or takes.
"$objdump" -d --no-show-raw-insn "$library" | awk '
  /^[0-9a-f]+ <.*>:$/ {
    name = $2
    region = "baseline"
    if (name ~ /^<_ZN8swa_fast3cpu4avx2/) region = "avx2"
    if (name ~ /^<_ZN8swa_fast3cpu6avx512/) region = "avx512"
    ++functions
    next
  }
  # "   1f:  vaddps %ymm0,%ymm1,%ymm2"; what follows # or < is a comment or a symbol.
  /^ *[0-9a-f]+:[ \t]/ {
    code = $0
    sub(/^ *[0-9a-f]+:[ \t]+/, "", code)
    sub(/[#<].*/, "", code)
    split(code, word, " ")
    mask = code ~ /%k[0-7]/
    wide = code ~ /%ymm/
    widest = code ~ /%zmm/ || code ~ /%[xy]mm(1[6-9]|2[0-9]|3[01])/
    vex = word[1] ~ /^v/  # every AVX instruction on vectors, of whatever width
    ++used[region]
    if (wide || vex) ++vector[region]
    if (widest || mask) ++evex[region]
    leak = region == "baseline" && (wide || widest || vex || mask)
    leak = leak || region == "avx2" && (widest || mask)
    if (leak && !(name in leaks)) leaks[name] = code
  }
  END {
    bad = 0
    for (name in leaks) {
      print "LEAK in " name " " leaks[name]
      bad = 1
    }
    # The regions must be where they are looked for, or the test would see nothing.
    if (!vector["avx2"]) { print "no AVX2 code found in swa_fast::cpu::avx2"; bad = 1 }
    if (!evex["avx512"]) { print "no AVX-512 code found in swa_fast::cpu::avx512"; bad = 1 }
    if (!used["baseline"]) { print "no baseline code found"; bad = 1 }
    printf "%d functions; instructions: %d baseline, %d avx2, %d avx512\n", functions,
           used["baseline"], used["avx2"], used["avx512"]
    exit bad
  }'
