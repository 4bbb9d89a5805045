# Who logs in hears of a disk that is nearly full.
case $- in
  *i*) [ ! -s /run/holm/full ] || cat /run/holm/full >&2 ;;
esac
