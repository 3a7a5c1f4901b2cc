#!/bin/sh
# Make the viewer of reports anew: the built file of the release that niivue.json beside it names,
# from npm, unaltered. For another release, change version and sha256 there first.
set -eu
cd "$(dirname "$0")/../client/src/ctclip_client/report/viewer"
command -v npm >/dev/null || { echo "npm is needed (Debian: apt-get install npm)" >&2; exit 1; }
field() { sed -n "s/^ *\"$1\": \"\([^\"]*\)\".*/\1/p" niivue.json; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
npm pack --silent --pack-destination "$work" "$(field name)@$(field version)" >/dev/null
tar -xzf "$work"/*.tgz -C "$work" "package/$(field file)"
echo "$(field sha256)  $work/package/$(field file)" | sha256sum --check --quiet
cp "$work/package/$(field file)" niivue.umd.js
echo "niivue.umd.js is that of $(field name) $(field version)"
