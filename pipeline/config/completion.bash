_overnight_speech() {
    local ours='^[^ ]*python[0-9.]* +-m +pipeline[.]run '
    if ! [[ "$COMP_LINE" =~ $ours ]]; then
        [ -z "$_OVERNIGHT_SPEECH_BEFORE" ] || "$_OVERNIGHT_SPEECH_BEFORE" "$@"
        return
    fi
    local line="${COMP_LINE:0:$COMP_POINT}"
    local word="${line##* }" found
    # Where `=` parts words, bash replaces only what stands behind it.
    local kept=""
    [[ "$COMP_WORDBREAKS" == *"="* && "$word" == *=* ]] && kept="${word%%=*}="
    COMPREPLY=()
    while IFS= read -r found; do
        [ -z "$found" ] || COMPREPLY+=("${found#"$kept"}")
    done < <("${COMP_LINE%% *}" -m pipeline.run --shell-completion query="$line" 2>/dev/null)
}
_OVERNIGHT_SPEECH_BEFORE=$(complete -p python 2>/dev/null | sed -n 's/.*-F \([^ ]*\).*/\1/p')
[ "$_OVERNIGHT_SPEECH_BEFORE" != _overnight_speech ] || _OVERNIGHT_SPEECH_BEFORE=
complete -o nospace -o default -F _overnight_speech python python3
