#!/bin/sh
# Make the viewer of reports anew: the built file of the release that niivue.json beside it names,
# from npm, unaltered, and the licences of all that it holds. For another release, change version,
# sha256 and holds there first; dist/metafile-esm.json of the package lists what it was built from.
set -eu
cd "$(dirname "$0")/../client/src/ctclip_client/report/viewer"
command -v npm >/dev/null || { echo "npm is needed (Debian: apt-get install npm)" >&2; exit 1; }
field() { sed -n "s/^ *\"$1\": \"\([^\"]*\)\".*/\1/p" niivue.json; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unpacked() { # NAME@VERSION: its folder
	folder=$(mktemp -d -p "$work")
	npm pack --silent --pack-destination "$folder" "$1" >/dev/null
	tar -xzf "$folder"/*.tgz -C "$folder"
	echo "$folder/package"
}
title() {
	rule="========================================================================"
	printf '%s\n%s\n%s\n\n' "$rule" "$1" "$rule"
}

package=$(unpacked "$(field name)@$(field version)")
echo "$(field sha256)  $package/$(field file)" | sha256sum --check --quiet
{
	printf 'What the viewer in this folder, and thereby every report, holds.\n\n'
	title "$(field name) $(field version) ($(field licence))"
	cat LICENSE # which is in its repository, not in its package
	for held in $(field holds); do
		folder=$(unpacked "$held")
		licence=$(sed -n 's/^ *"license": "\([^"]*\)".*/\1/p' "$folder/package.json")
		printf '\n'
		title "${held%@*} ${held##*@} ($licence)"
		cat "$(find "$folder" -maxdepth 1 -iname 'licen[cs]e*')"
		printf '\n'
	done
	printf '\n'
	cat compiled-in.txt # of code that no package.json names: in WebAssembly, and in NiiVue's own source
	title "Roboto, the font of NiiVue's labels; parts of FastSurfer and GrowCut in NiiVue (Apache-2.0)"
	cat ../../../../../LICENSE
} >"$work/licences"
tr -d '\r' <"$work/licences" >THIRD_PARTY.txt
cp "$package/$(field file)" niivue.umd.js
echo "niivue.umd.js is that of $(field name) $(field version)"
