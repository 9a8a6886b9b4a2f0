#!/usr/bin/env bash
# No tracked source file is longer than 800 lines: past that nobody reads it. What
# is generated is not read as a source.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

limit=800
files=0
long=0
while IFS= read -r -d '' file; do
    [[ -f $file && $file != */_native.pyi && $file != */native/index.d.ts ]] || continue
    files=$((files + 1))
    lines=$(wc -l <"$file")
    if ((lines > limit)); then
        say "$file has $lines lines, at most $limit are allowed"
        long=$((long + 1))
    fi
done < <(git ls-files -z -- '*.rs' '*.py' '*.pyi' '*.ts' '*.js' '*.mjs' '*.sh' '*.sql')
((files > 0)) || die "found no tracked source file"
((long == 0)) || die "$long of $files source files are too long"
say "$files source files, none over $limit lines"
