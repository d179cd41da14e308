# shellcheck shell=bash
# To be sourced: what a check needs and a machine may lack. tests/it/require.rs is the same for tests,
# explains the names and tests this file.
#
#     missing NAME WHY    ends the script: failed if TEFF_REQUIRE lists NAME or `all`, else skipped

missing() {
    local known=" all apple clients cross fixtures gpu models qemu sandbox spirv " wanted=${TEFF_REQUIRE:-} word
    for word in "$1" ${wanted//,/ }; do
        [[ $known == *" $word "* ]] || {
            echo "TEFF_REQUIRE: \`$word\` is none of$known" >&2
            exit 1
        }
    done
    for word in ${wanted//,/ }; do
        [[ $word != all && $word != "$1" ]] || {
            echo "TEFF_REQUIRE=$wanted, but $2" >&2
            exit 1
        }
    done
    echo "skipped: $2 (TEFF_REQUIRE=$1 makes this a failure)"
    exit 0
}
