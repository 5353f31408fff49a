#!/usr/bin/env bash
# run.sh SOURCE BUILD WORK VERSION: install the built library, then use it in every way that the docs name.
set -euo pipefail
source=$1 build=$2 work=$3 version=$4
here=$(dirname "$(realpath "$0")")
rm -rf "$work"
cmake --install "$build" --prefix "$work/prefix" >/dev/null
[ "$("$work/prefix/bin/clip-edge-cli" --version)" = "clip-edge-cli $version" ] # finds the library beside it

for kind in find_package subdirectory; do
  cmake -S "$here/$kind" -B "$work/$kind" -G Ninja -DEXPECTED_VERSION="$version" -DCLIP_EDGE_SOURCE="$source" \
    -DCMAKE_PREFIX_PATH="$work/prefix" -DBUILD_SHARED_LIBS="$([ $kind = subdirectory ] && echo OFF || echo ON)" >/dev/null
  cmake --build "$work/$kind" >/dev/null
  ctest --test-dir "$work/$kind" --output-on-failure >/dev/null
done

export PKG_CONFIG_PATH=$work/prefix/lib/pkgconfig:$(dirname "$(find "$work/prefix" -name clip_edge.pc)")
[ "$(pkg-config --modversion clip_edge)" = "$version" ]
library_folder=$(pkg-config --variable=libdir clip_edge)
flags=$(pkg-config --cflags --libs clip_edge)
cc -std=c99 -Wall -Wextra -Wpedantic -Werror -DCLIP_EDGE_EXPECTED_VERSION="\"$version\"" "$here/consumer.c" $flags -o "$work/by_pkg_config"
LD_LIBRARY_PATH=$library_folder "$work/by_pkg_config"
cc -std=c99 -Wall -Wextra -Wpedantic -Werror "$source/runtime/examples/classify.c" $flags -o "$work/classify_c"
c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror "$source/runtime/examples/classify.cpp" $flags -o "$work/classify_cpp"

# The names that leave the library are the names that the header declares, and nothing in it ends the process or prints.
library=$(find "$work/prefix" -name 'libclip_edge.so')
header=$(sed -n 's/^CLIP_EDGE_API[^(]*[ *]\(clip_edge_[a-z0-9_]*\)(.*/\1/p' "$source/runtime/include/clip_edge/clip_edge.h" | sort)
exported=$(nm -D --defined-only "$library" | awk '$2 != "A" {print $3}' | sed 's/@.*//' | sort)
diff <(echo "$header") <(echo "$exported")
if nm -D --undefined-only "$library" | grep -wE 'exit|_exit|abort|printf|puts|putchar|fprintf|stdout|stderr|__printf_chk|__fprintf_chk'; then
  echo "the library can end the process or print"
  exit 1
fi
if nm -D --undefined-only "$library" | grep -wE 'strto(d|f|ld)|atof|setlocale|localeconv'; then
  echo "the library reads numbers by the app's locale"
  exit 1
fi
strip -o "$work/stripped" "$library"
if (($(wc -c <"$work/stripped") > 1000000)); then
  echo "the library is larger than 1 MB: $(wc -c <"$work/stripped") bytes"
  exit 1
fi
