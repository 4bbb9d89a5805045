# Who logs in hears of a disk that is nearly full, and that no jobs start.
case $- in
  *i*)
    for holm_notice in full drains; do
      [ ! -s /run/holm/$holm_notice ] || cat /run/holm/$holm_notice >&2
    done
    unset holm_notice
    ;;
esac
