# Who logs in hears of a disk that is nearly full, that no jobs start, and of her jobs that do not use their GPUs.
case $- in
  *i*)
    for holm_notice in full drains "idle/${UID:-none}"; do
      [ ! -s "/run/holm/$holm_notice" ] || cat "/run/holm/$holm_notice" >&2
    done
    unset holm_notice
    ;;
esac
