"""`python -m ctclip_client` is `ctclip`, where the script is not on the PATH."""

import sys

from ctclip_client.cli.program import main

sys.exit(main())
