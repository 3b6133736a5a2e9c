# Print the Python to make the environment with: $PYTHON, else the first that fits.
# 3.11 and 3.12 have a wheel of every package; later ones need a Redis of the system's own.
fits() { "$1" -c "import sys; sys.exit(not ($2))" 2>/dev/null; }

if [ -n "$PYTHON" ]; then
    fits "$PYTHON" 'sys.version_info >= (3, 11)' && echo "$PYTHON" && exit
    echo "PYTHON=$PYTHON is no Python 3.11 or later." >&2
    exit 1
fi
for candidate in python3 python3.12 python3.11; do
    fits "$candidate" '(3, 11) <= sys.version_info < (3, 13)' && echo "$candidate" && exit
done
for candidate in python3 python3.13; do
    fits "$candidate" 'sys.version_info >= (3, 11)' && echo "$candidate" && exit
done
echo "Parley needs Python 3.11 or later (3.12 is best). Install one, or name it: PYTHON=/path/to/python3.12 make up" >&2
exit 1
