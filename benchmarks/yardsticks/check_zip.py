"""The checksums of a zip archive, by Python's own zipfile on one core."""

import sys
import zipfile

with zipfile.ZipFile(sys.argv[1]) as archive:
    sys.exit(archive.testzip() is not None)
