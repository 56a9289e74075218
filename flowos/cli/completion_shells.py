"""Completion scripts for bash, zsh and fish: a function each, from the model to the script's text."""
import shlex

from .completion_model import NAMES

BASH = r'''# Completion of flowos for bash.  Made by `flowos completion bash`.

# Offer words; those that go on from what stands under the cursor.
_flowos_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$current"); }

# Offer what a kind of word may be.
_flowos_kind() {
    case $1 in
    files) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
    folders) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
    interfaces) _flowos_words "$(ls /sys/class/net)" ;;
    NAMES) _flowos_words "$("${COMP_WORDS[0]}" completion --names "$1" ${socket:+--socket "$socket"} 2>/dev/null)" ;;
    esac
}

_flowos() {
    local current=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} valued='' options='' values='' words='' place=0 socket='' number
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        _flowos_words "COMMANDS"
        return
    fi
    # options; those that take a value, as --flag:kind or --flag=choice,choice; arguments, likewise
    case $command in
CASES
    *) return ;;
    esac
    # Which argument stands under the cursor: options and their values are none.
    for ((number = 2; number < COMP_CWORD; number++)); do
        case " $valued " in
        *" ${COMP_WORDS[number]} "*)
            [ "${COMP_WORDS[number]}" = --socket ] && socket=${COMP_WORDS[number + 1]}
            number=$((number + 1)) ;;
        *) [[ ${COMP_WORDS[number]} == -* ]] || place=$((place + 1)) ;;
        esac
    done
    if [ "$number" -gt "$COMP_CWORD" ]; then         # the value of an option
        local value
        for value in $values; do
            case $value in
            "${COMP_WORDS[COMP_CWORD - 1]}:"*) _flowos_kind "${value#*:}" ;;
            "${COMP_WORDS[COMP_CWORD - 1]}="*) value=${value#*=}; _flowos_words "${value//,/ }" ;;
            esac
        done
    elif [[ $current == -* ]]; then
        _flowos_words "$options"
    else
        local -a places=($words)
        [ -n "$more" ] && [ "$place" -ge "${#places[@]}" ] && place=$((${#places[@]} - 1))
        case ${places[place]-} in
        =*) local choices=${places[place]#=}; _flowos_words "${choices//,/ }" ;;
        :*) _flowos_kind "${places[place]#:}" ;;
        esac
    fi
}

complete -F _flowos flowos
'''

ZSH = r'''#compdef flowos
# Completion of flowos for zsh.  Made by `flowos completion zsh`.

# Offer names of the last argument's kind, of the daemon that --socket names; the others are compadd's.
_flowos_names() {
    local -a names
    local socket=${opt_args[--socket]}
    names=(${(f)"$(_call_program names ${(q)flowos} completion --names $argv[-1] ${socket:+--socket ${(q)socket}} 2>/dev/null)"})
    compadd "${(@)argv[1,-2]}" -a names
}

_flowos() {
    local curcontext=$curcontext state line flowos=$words[1]
    local -A opt_args
    _arguments -C '(- *)'{-h,--help}'[show the commands]' '(- *)'{-V,--version}'[show the version]' '1:command:->command' '*::argument:->argument'
    case $state in
    command)
        local -a commands
        commands=(
COMMANDS
        )
        _describe -t commands command commands ;;
    argument)
        case $words[1] in
CASES
        esac ;;
    esac
}

if [ "$funcstack[1]" = _flowos ]; then _flowos "$@"; else compdef _flowos flowos; fi
'''

FISH = r'''# Completion of flowos for fish.  Made by `flowos completion fish`.

# Say whether the command is $argv[1].
function __flowos_in
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test "$words[2]" = $argv[1]
end

# Say whether argument number $argv[2] of command $argv[1] stands under the cursor; `+` after the number: or a later one.
# The other words are options that take a value.
function __flowos_at
    __flowos_in $argv[1]; or return 1
    set -l words (commandline -opc)
    set -l place 1
    set -l skip no
    for word in $words[3..-1]
        if test $skip = yes
            set skip no
        else if contains -- $word $argv[3..-1]
            set skip yes
        else if not string match -q -- '-*' $word
            set place (math $place + 1)
        end
    end
    test $skip = yes; and return 1
    string match -q -- '*+' $argv[2]; and test $place -ge (string trim -c + $argv[2]); and return 0
    test $place = $argv[2]
end

# Give names that flowos knows, of the daemon that --socket names.
function __flowos_names
    set -l words (commandline -opc)
    set -l where
    if set -l at (contains -i -- --socket $words); and set -q words[(math $at + 1)]
        set where --socket $words[(math $at + 1)]
    end
    $words[1] completion --names $argv[1] $where 2>/dev/null
end

complete -c flowos -f
'''


def quoted(text):
    """Quote text for a POSIX shell, always with quotes."""
    return shlex.quote(text) if shlex.quote(text)[0] == "'" else f"'{text}'"


def coded(word):
    """Write a word as the bash script reads it: ":kind", or "=choice,choice"."""
    return f"={','.join(word.choices)}" if word.choices else f":{word.kind}"


def bash(commands):
    """Give the script for bash (4.4 or later)."""
    cases = []
    for command in commands:
        flags = [flag for option in command.options for flag in option.flags]
        valued = [(flag, option.value) for option in command.options if option.value is not None for flag in option.flags]
        cases.append("\n".join([
            f"    {command.name})", f"        options={quoted(' '.join(flags))}", f"        valued={quoted(' '.join(flag for flag, _ in valued))}",
            f"        values={quoted(' '.join(flag + coded(value) for flag, value in valued))}",
            f"        words={quoted(' '.join(map(coded, command.words)))}", f"        more={'yes' if command.more else ''} ;;"]))
    return (BASH.replace("COMMANDS", " ".join([*(command.name for command in commands), "--help", "--version"]), 1)
            .replace("CASES", "\n".join(cases)).replace("NAMES)", f"{' | '.join(NAMES)})")
            .replace("socket='' number", "socket='' more='' number"))


ZSH_ACTIONS = {"files": "_files", "folders": "_files -/", "interfaces": "_net_interfaces", "": " "}


def zsh_action(word):
    """Write how zsh finds a word."""
    if word.choices:
        return f"({' '.join(word.choices)})"
    return f"_flowos_names {word.kind}" if word.kind in NAMES else ZSH_ACTIONS[word.kind]


def zsh_text(text):
    """Write text inside a specification of _arguments."""
    for mark in "\\:[]":
        text = text.replace(mark, f"\\{mark}")
    return text


def zsh(commands):
    """Give the script for zsh."""
    cases = []
    for command in commands:
        specs = []
        for option in command.options:
            value = "" if option.value is None else f":{zsh_text(option.value.title)}:{zsh_action(option.value)}"
            specs += [quoted(f"*{flag}[{zsh_text(option.help)}]{value}") for flag in option.flags]
        for number, word in enumerate(command.words):
            last = command.more and number == len(command.words) - 1
            specs.append(quoted(f"{'*' if last else number + 1}:{zsh_text(word.title)}:{zsh_action(word)}"))
        cases.append(f"        {command.name})\n            _arguments \\\n                " + " \\\n                ".join(specs) + " ;;")
    listed = "\n".join(f"            {quoted(command.name + ':' + zsh_text(command.help))}" for command in commands)
    return ZSH.replace("COMMANDS", listed, 1).replace("CASES", "\n".join(cases))


def fish_text(text):
    """Quote text for fish."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def fish_value(word):
    """Write how fish finds a word."""
    if word.choices:
        return f"-x -a {fish_text(' '.join(word.choices))}"
    if word.kind in NAMES:
        return f"-x -a '(__flowos_names {word.kind})'"
    return {"files": "-r -F", "folders": "-x -a '(__fish_complete_directories)'", "interfaces": "-x -a '(ls /sys/class/net)'", "": "-x"}[word.kind]


def fish(commands):
    """Give the script for fish (3.0 or later)."""
    lines = []
    for command in commands:
        lines.append(f"complete -c flowos -n __fish_use_subcommand -a {command.name} -d {fish_text(command.help)}")
        valued = " ".join(flag for option in command.options if option.value is not None for flag in option.flags)
        for option in command.options:
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
            value = f" {fish_value(option.value)}" if option.value is not None else ""
            lines.append(f"complete -c flowos -n '__flowos_in {command.name}' {flags}{value} -d {fish_text(option.help)}")
        for number, word in enumerate(command.words):
            if word.kind:
                at = f"{number + 1}{'+' if command.more and number == len(command.words) - 1 else ''}"
                value = fish_value(word).replace("-r -F", "-F").replace("-x ", "-f ")
                lines.append(f'complete -c flowos -n "__flowos_at {command.name} {at} {valued}" {value}')
    return FISH + "\n".join(lines) + "\n"
