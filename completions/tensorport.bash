# bash completion for tensorport and tensorport-mount.
#
# Commands, options and values are asked of the programs themselves, in a few milliseconds: --help
# lists the first two, and a value that is none makes an option say which there are. So this file
# knows no option, and cannot be wrong about one.

# _tensorport_commands PROGRAM: the commands of tensorport.
_tensorport_commands()
{
    local line
    while IFS= read -r line; do
        [[ $line =~ ^\ \ ([a-z][a-z0-9-]*)\ +[^\ ] ]] && printf '%s\n' "${BASH_REMATCH[1]}"
    done < <("$1" --help 2>/dev/null </dev/null)
}

# _tensorport_choices PROGRAM [COMMAND] OPTION: the values it takes. The option that does not exist
# keeps the program from doing anything, should the value be right after all.
_tensorport_choices()
{
    local text
    text=$("${@:1:$#-1}" "${!#}=?" --no-such-option 2>&1 </dev/null)
    [[ $text =~ expected\ one\ of\ (.*),\ found ]] && printf '%s' "${BASH_REMATCH[1]//,/}"
}

# The mount points of tensorport-mount, from the kernel's table: looking at them could hang.
_tensorport_mount_points()
{
    local path rest
    while read -r _ _ _ _ path rest; do
        [[ $rest == *" - fuse.tensorport-mount "* ]] && printf '%b\n' "${path//\\/\\0}"
    done </proc/self/mountinfo
}

# Adds to COMPREPLY the lines on stdin that begin with $1.
_tensorport_reply()
{
    local line
    while IFS= read -r line; do
        [[ $line == "$1"* ]] && COMPREPLY+=("$line")
    done
}

_tensorport_files()
{
    compopt -o filenames 2>/dev/null
    _tensorport_reply "" < <(compgen "$1" -- "$2")
}

# _tensorport_value OPTION ARGUMENT VALUE: completes the value of an option, whose help calls it
# ARGUMENT.
_tensorport_value()
{
    local kept
    case $2 in
    DIR | FOLDER | OUTPUT) _tensorport_files -d "$3" ;;
    FILE | PATH | MODEL | SOURCE) _tensorport_files -f "$3" ;;
    LIST) # -o: the other options, written with underscores
        kept=${3%"${3##*,}"}
        compopt -o nospace 2>/dev/null
        _tensorport_reply "$3" < <(printf '%s\n' "${names[@]#--}" | tr - _ | sed "s|^|$kept|")
        ;;
    *) COMPREPLY=($(compgen -W "$(_tensorport_choices "${command[@]}" "$1")" -- "$3")) ;;
    esac
}

# _tensorport_rest INDEX: the words from there on are a command line of their own.
_tensorport_rest()
{
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$1"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$1"
    elif ((COMP_CWORD == $1)); then
        _tensorport_reply "" < <(compgen -c -- "$cur")
    else
        _tensorport_files -f "$cur"
    fi
}

_tensorport_argument()
{
    if [[ $usage == *[A-Z]\|MOUNTPOINT* ]]; then
        _tensorport_reply "$cur" < <(_tensorport_mount_points)
    elif [[ $usage == *MOUNTPOINT* && ${#command[@]} -eq 2 ]]; then
        # not as file names, which readline would look at
        _tensorport_reply "$cur" < <(_tensorport_mount_points | while IFS= read -r line; do
            printf '%q\n' "$line"
        done)
        [[ $cur == [!/]* ]] || return 0
    fi
    [[ $usage == *[A-Z]* ]] && _tensorport_files -f "$cur"
}

_tensorport()
{
    local cur=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} option="" i line
    local program=${COMP_WORDS[0]/#\~\//$HOME/} usage="" first=1
    local -a command names=()
    local -A argument=()
    COMPREPLY=()
    type -P -- "$program" >/dev/null || return 0
    command=("$program")
    if [[ ${program##*/} == tensorport ]]; then
        if ((COMP_CWORD == 1)); then
            COMPREPLY=($(compgen -W "$(_tensorport_commands "$program") --help --version" -- "$cur"))
            return 0
        fi
        [[ ${COMP_WORDS[1]} == [a-z]* ]] || return 0
        command+=("${COMP_WORDS[1]}")
        first=2
    fi

    while IFS= read -r line; do
        if [[ $line =~ ^Usage:\ .*\[OPTION\.\.\.\]\ ?(.*) ]]; then
            usage=${BASH_REMATCH[1]}
        elif [[ $line =~ ^\ \ (-(.),\ |\ \ \ \ )(--[a-z0-9-]+)(=([^\ ]+))? ]]; then
            names+=("${BASH_REMATCH[3]}${BASH_REMATCH[4]:+=}")
            argument[${BASH_REMATCH[3]}]=${BASH_REMATCH[5]}
            # a short option stands for its long one
            [[ -z ${BASH_REMATCH[2]} ]] || argument[-${BASH_REMATCH[2]}]=${BASH_REMATCH[5]:+${BASH_REMATCH[3]}}
        fi
    done < <("${command[@]}" --help 2>/dev/null </dev/null)

    for ((i = first; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -- ]] || continue
        if [[ $usage == *" -- "* ]]; then
            _tensorport_rest $((i + 1))
        else
            _tensorport_argument
        fi
        return 0
    done

    # "--name=value" comes as three words, as long as "=" is one of COMP_WORDBREAKS.
    if [[ $cur == = ]]; then
        option=$previous cur=""
    elif [[ $previous == = ]]; then
        option=${COMP_WORDS[COMP_CWORD - 2]}
    elif [[ $cur == --*=* ]]; then
        option=${cur%%=*} cur=${cur#*=}
    elif [[ $previous == -* && -n ${argument[$previous]-} ]]; then
        option=$previous
    fi
    [[ $option != -? ]] || option=${argument[$option]}
    if [[ -n $option ]]; then
        [[ -n ${argument[$option]-} ]] && _tensorport_value "$option" "${argument[$option]}" "$cur"
        [[ ${COMP_WORDS[COMP_CWORD]} != --*=* ]] || COMPREPLY=("${COMPREPLY[@]/#/$option=}")
    elif [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "${names[*]}" -- "$cur"))
        [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    else
        _tensorport_argument
    fi
    return 0
}

complete -F _tensorport tensorport tensorport-mount
