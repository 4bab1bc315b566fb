"""Where image-report pairs come from: sources, reports, images, and the manifest they end in."""
