# What compiles and runs programs for Windows on Debian, in a folder of its own; sourced by scripts/windows, not run.
# Nothing is installed system-wide and nothing takes root: packages are downloaded with apt and unpacked into the folder.
#
#   apt/      package lists of its own            bin/      compiler and Wine, under the names cargo looks for
#   files/    unpacked packages                   prefix/   Wine's Windows
#   sysroot/  Rust's standard library, built      done/     what is finished, by name
#
# The standard library has to be of the compiler's version. Debian packages its sources together with all it depends
# on (rust-src), so it is built once, with the compiler's own permission to use what is unstable.

kit=${ZRING_WINDOWS_KIT:-${XDG_CACHE_HOME:-$HOME/.cache}/zring-windows}
gnu=x86_64-pc-windows-gnu
msvc=x86_64-pc-windows-msvc

open_kit() {
    mkdir -p "$kit"/{apt,bin,done,files,std/src,sysroot}
    kit=$(cd "$kit" && pwd)
    files=$kit/files
    compiler=$(rustc -vV)
    release=$(sed -n 's/^release: //p' <<<"$compiler")
    command -v apt-get >/dev/null || fail "this takes apt-get: it works on Debian and what derives from it"
    export PATH=$PATH:$kit/bin
}

# once NAME STATE COMMAND...: a step that is skipped where it was finished in the same state.
once() {
    local name=$1 state=$2
    shift 2
    [ -e "$kit/done/$name" ] && [ "$(cat "$kit/done/$name")" = "$state" ] && return
    rm -f "$kit/done/$name"
    step "$name" "$@"
    printf '%s\n' "$state" >"$kit/done/$name"
}

# lists_of SUITE: lets apt work on lists of the kit's own: of the sources the machine has (`here`), or of another suite
# of the same mirror.
lists_of() {
    local dir=$kit/apt/$1 suite=$1 mirror
    export APT_CONFIG=$dir/apt.conf
    [ ! -e "$dir/fetched" ] || return 0
    rm -rf "$dir"
    mkdir -p "$dir"/{lists,archives}/partial "$dir/none"
    cat >"$dir/apt.conf" <<CONF
Dir::State "$dir";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "$dir";
Dir::Etc::main "$dir/last.conf";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
CONF
    # Read behind all others: what the system does with new lists is not to be done with these.
    cat >"$dir/last.conf" <<CONF
$([ ! -e /etc/apt/apt.conf ] || echo '#include "/etc/apt/apt.conf";')
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONF
    if [ "$suite" != here ]; then
        mirror=$(APT_CONFIG='' apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
            grep -v security | head -n 1)
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$dir/sources"
        cat >>"$dir/apt.conf" <<CONF
Dir::Etc::sourcelist "$dir/sources";
Dir::Etc::sourceparts "$dir/none";
CONF
    fi
    apt-get -qq update && touch "$dir/fetched"
}

# unpack PACKAGE...: downloads packages and unpacks them.
unpack() {
    local from package
    from=$(mktemp -d -p "$logs")
    (cd "$from" && apt-get -qq download "$@") || return
    for package in "$from"/*.deb; do
        dpkg -x "$package" "$files" || return
    done
    rm -rf "$from"
}

# unpack_whole PACKAGE...: the same, with all they depend on that this machine lacks.
unpack_whole() {
    local missing
    lists_of here || return
    missing=$(apt-get -s install --no-install-recommends "$@" | awk '$1 == "Inst" { print $2 }')
    # Nothing is missing where somebody has installed them.
    # shellcheck disable=SC2086
    [ -z "$missing" ] || unpack $missing
}

# find_tool PATH: where the kit, or else the system, has it.
find_tool() {
    local dir
    for dir in "$files" ""; do
        [ ! -e "$dir$1" ] || { echo "$dir$1" && return; }
    done
    echo "there is no $1" >&2
    return 1
}

# The GNU tools under their usual names; Debian's alternatives system, which would give them those, is not run.
make_mingw() {
    local name tool
    unpack_whole "$1" || return
    for name in gcc ar ld dlltool as; do
        tool=$(find_tool "/usr/bin/x86_64-w64-mingw32-$name-win32" 2>/dev/null ||
            find_tool "/usr/bin/x86_64-w64-mingw32-$name") || continue
        ln -sf "$tool" "$kit/bin/x86_64-w64-mingw32-$name" || return
    done
    [ -x "$kit/bin/x86_64-w64-mingw32-dlltool" ]
}

# The compiler's own sources, which come along, are five times as much.
only_library() {
    find "$files/usr/src/rustc-$release" -mindepth 1 -maxdepth 1 ! -name library -exec rm -rf {} +
}

find_rust_source() {
    local suite found
    for suite in here trixie-backports trixie forky sid; do
        lists_of "$suite" || continue
        found=$(apt-cache madison rust-src rust-web-src |
            awk -v release="$release" 'index($3, release "+") == 1 { print $1 "=" $3; exit }')
        [ -z "$found" ] || { unpack "$found" && only_library && return; }
    done
    echo "Debian has no sources of the standard library of Rust $release." \
        "Take another release, or get its Windows targets with \`rustup target add $gnu $msvc\`." >&2
    return 1
}

# has_target TARGET: whether the compiler came with a standard library for it.
has_target() {
    [ -d "$(rustc --print target-libdir --target "$1")" ]
}

# build_std TARGET [CARGO_OPTION...]
build_std() {
    local target=$1 source=$files/usr/src/rustc-$release/library lib=$kit/sysroot/lib/rustlib/$1/lib name
    shift
    rm -rf "$lib" "$kit/std/target" && mkdir -p "$lib" && : >"$kit/std/src/lib.rs" || return
    printf '[package]\nname = "nothing"\nedition = "2024"\n[profile.dev]\ndebug = 0\n[workspace]\n' >"$kit/std/Cargo.toml"
    (cd "$kit/std" && RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$source CARGO_TARGET_DIR=$kit/std/target \
        cargo build --quiet --target "$target" -Zbuild-std=std,panic_unwind,test "$@") &&
        cp "$kit/std/target/$target"/*/deps/*.rlib "$lib" && rm -f "$lib"/libnothing* || return
    if [ "$target" = $gnu ]; then
        # What every program begins and ends with on this target.
        for name in rsbegin rsend; do
            RUSTC_BOOTSTRAP=1 rustc --cap-lints allow --edition 2024 --target "$target" --sysroot "$kit/sysroot" \
                --crate-type rlib --emit obj -o "$lib/$name.o" "$source/rtstartup/$name.rs" || return
        done
    fi
    rm -rf "$kit/std/target"
}

# use_std TARGET [CARGO_OPTION...]: makes cargo find a standard library for the target.
use_std() {
    local target=$1 variable
    has_target "$target" && return
    once "Rust's sources" "$release" find_rust_source
    once "std for ${target##*-windows-}" "$compiler" build_std "$@"
    variable=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$target")
    export "${variable}_RUSTFLAGS=--sysroot $kit/sysroot" "${variable}_RUSTDOCFLAGS=--sysroot $kit/sysroot"
}

# without_c TARGET: nothing is linked by a check, so the C of a dependency does not have to be compiled; where a library
# of it has to be, an empty one is put.
without_c() {
    local target=${1//-/_}
    cat >"$kit/bin/no-ar" <<'RUN'
#!/bin/sh
for argument; do
    case $argument in
        [-/]out:*) : >"${argument#?out:}" ;;
    esac
done
RUN
    chmod +x "$kit/bin/no-ar"
    export "CC_$target=true" "AR_$target=$kit/bin/no-ar"
}

unpack_wine() {
    unpack_whole wine64
}

make_windows() {
    local wine modules system32=$kit/prefix/drive_c/windows/system32
    wine=$(find_tool /usr/lib/wine) && modules=$(find_tool /usr/lib/x86_64-linux-gnu/wine/x86_64-windows) || return
    if [ "$wine" = "$files/usr/lib/wine" ]; then
        # Debian's links name absolute paths.
        ln -sf wineserver64 "$wine/wineserver" &&
            cp "$files/usr/x86_64-w64-mingw32/lib/zlib1.dll" "$modules/" || return
    fi
    # No window, and no debugger for a program that crashes.
    cat >"$kit/bin/with-wine" <<RUN
#!/bin/sh
export WINEPREFIX='$kit/prefix' WINEDEBUG=\${WINEDEBUG--all}
export WINEDLLOVERRIDES='mscoree,mshtml,winemenubuilder.exe,winedbg.exe=;bcryptprimitives=n,b'
export LD_LIBRARY_PATH='$files/usr/lib/x86_64-linux-gnu'
unset DISPLAY WAYLAND_DISPLAY
exec "\$@"
RUN
    # cargo's runner.
    cat >"$kit/bin/wine-run" <<RUN
#!/bin/sh
exec '$kit/bin/with-wine' '$wine/wine64' '$kit/bin/run.exe' "\$@"
RUN
    cat >"$kit/bin/wine-server" <<RUN
#!/bin/sh
exec '$kit/bin/with-wine' '$wine/wineserver64' "\$@"
RUN
    chmod +x "$kit"/bin/w* && x86_64-w64-mingw32-gcc -O2 -s -o "$kit/bin/run.exe" scripts/windows-kit/run.c || return

    rm -rf "$kit/prefix"
    # It says 1 where only the half for 32-bit programs is missing.
    timeout 300 "$kit/bin/with-wine" "$wine/wine64" wineboot --init
    "$kit/bin/wine-server" -w
    [ -s "$kit/prefix/system.reg" ] && [ -e "$system32/ws2_32.dll" ] || return
    [ -e "$modules/bcryptprimitives.dll" ] ||
        x86_64-w64-mingw32-gcc -O2 -s -shared -o "$system32/bcryptprimitives.dll" scripts/windows-kit/random.c -ladvapi32
}
