"""From ordinary video files to the records that training reads."""
