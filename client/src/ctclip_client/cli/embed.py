"""`ctclip embed`: vectors of chest CTs, and of reports."""

SUMMARY = "Embed chest CTs (image) or reports (text) with a server."
WORDS = {
    "image": "ctclip_client.cli.embed_image",
    "text": "ctclip_client.cli.embed_text",
}
