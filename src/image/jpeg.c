/*
 * JPEG over libjpeg's own interface, which unlike TurboJPEG's tells its warnings apart by code.
 *
 * libjpeg reports an error by a function that must not return. Here that function is a longjmp to
 * the setjmp of the call which Rust made into this file, so no jump ever crosses a Rust frame:
 * `stop`, the only call from here into Rust, returns normally.
 *
 * libjpeg decodes a damaged file to the end and only warns. A viewer can show that; a search must
 * not take it for the photo. So every warning is an error here, except those that say nothing
 * about pixels (see `warned`).
 */
#include <limits.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "failure.h"

/*
 * A scan costs a pass over all coefficients, yet a few bytes of file: a file of thousands of scans
 * is an attack. Encoders write about ten.
 */
#define MAX_SCANS 64

/*
 * Bytes that some cameras write before each restart marker. More than this is no alignment, but
 * what a decoder leaves that lost its way in damaged data.
 */
#define MAX_RESTART_PADDING 16
/*
 * Bytes that libjpeg reads ahead of the code that it decodes. At a restart marker it counts those as
 * skipped, too (jdhuff.c, process_restart).
 */
#define READ_AHEAD 8
/*
 * Zeros can be codes of a Huffman table. So many of them before padding, more than are read ahead,
 * are taken for padding that was decoded: the file was not written to its end.
 */
#define DECODED_ZEROS (READ_AHEAD + 1)

/*
 * The beginning of libjpeg's own struct of this name (jpegint.h), which is not among its installed
 * headers. libjpeg-turbo is built from the source that Cargo.lock names.
 */
struct jpeg_marker_reader {
    void (*reset_marker_reader)(j_decompress_ptr info);
    int (*read_markers)(j_decompress_ptr info);
    jpeg_marker_parser_method read_restart_marker;
    boolean saw_SOI;
    boolean saw_SOF;
    int next_restart_num;
    unsigned int discarded_bytes;
};

struct photosearch_jpeg {
    struct jpeg_decompress_struct info;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    struct photosearch_failure failure;
    photosearch_stop stop;
    void *context;
    const uint8_t *bytes;
    size_t length;
    /* The file has ended, and libjpeg was given an end-of-image marker of ours. */
    int ended;
    int several_scans;
};

/* What the header says. The mirror of `Header` in jpeg.rs. */
struct photosearch_jpeg_header {
    uint32_t width, height;
    /* Components of a row as it is read: 1 grey, 3 RGB, 4 CMYK with 255 for no ink. */
    uint32_t components;
    /* Bits of a sample, 2 to 16. */
    uint32_t precision;
    /* Bytes of all coefficients, where libjpeg keeps them until the last scan. */
    uint64_t memory;
};

static const JOCTET end_of_image[2] = {0xff, JPEG_EOI};

static void fail(struct photosearch_jpeg *jpeg, int kind, const char *message)
{
    jpeg->failure.kind = kind;
    snprintf(jpeg->failure.message, sizeof jpeg->failure.message, "%s", message);
    longjmp(jpeg->jump, 1);
}

/* libjpeg's own message of what happened last, as a failure. */
static void fail_with_message(struct photosearch_jpeg *jpeg, int kind)
{
    char message[JMSG_LENGTH_MAX];
    (*jpeg->errors.format_message)((j_common_ptr)&jpeg->info, message);
    fail(jpeg, kind, message);
}

static struct photosearch_jpeg *of(j_common_ptr info)
{
    return info->client_data;
}

static void error_exit(j_common_ptr info)
{
    struct photosearch_jpeg *jpeg = of(info);
    switch (jpeg->errors.msg_code) {
    case JERR_OUT_OF_MEMORY:
        fail(jpeg, PHOTOSEARCH_OUT_OF_MEMORY, "");
        break;
    case JERR_NO_BACKING_STORE:
        fail(jpeg, PHOTOSEARCH_TOO_MUCH_MEMORY, "");
        break;
    case JERR_EMPTY_IMAGE:
        if (jpeg->info.image_height == 0 && jpeg->info.image_width > 0)
            fail(jpeg, PHOTOSEARCH_UNSUPPORTED, "height in a DNL marker");
        fail(jpeg, PHOTOSEARCH_DAMAGED, "it has no pixels");
        break;
    case JERR_ARITH_NOTIMPL:
        /* Of the codings that libjpeg-turbo knows, the one whose arithmetic variant is missing. */
        fail(jpeg, PHOTOSEARCH_UNSUPPORTED, "lossless arithmetic coding");
        break;
    case JERR_CONVERSION_NOTIMPL:
        /* Asked for only where the file is lossless and not in RGB, grey or CMYK. */
        fail(jpeg, PHOTOSEARCH_UNSUPPORTED, "lossless coding of YCbCr or YCCK");
        break;
    case JERR_SOF_UNSUPPORTED:
        fail(jpeg, PHOTOSEARCH_UNSUPPORTED, "hierarchical coding");
        break;
    case JERR_BAD_PRECISION:
    case JERR_CCIR601_NOTIMPL:
    case JERR_COMPONENT_COUNT:
    case JERR_FRACT_SAMPLE_NOTIMPL:
    case JERR_NOTIMPL:
    case JERR_NOT_COMPILED:
        fail_with_message(jpeg, PHOTOSEARCH_UNSUPPORTED);
        break;
    default:
        if (jpeg->ended)
            fail(jpeg, PHOTOSEARCH_DAMAGED, "the file is cut short");
        fail_with_message(jpeg, PHOTOSEARCH_DAMAGED);
    }
}

static void output_message(j_common_ptr info)
{
    /* A server has no terminal. */
    (void)info;
}

/*
 * Whether the bytes that libjpeg skipped before a marker are padding. While it warns of them, the
 * source still stands directly behind them (jdmarker.c, next_marker), or at the end marker of ours.
 */
static int skipped_padding(const struct photosearch_jpeg *jpeg, size_t skipped)
{
    size_t end = jpeg->length;
    if (!jpeg->ended)
        end = (size_t)(jpeg->source.next_input_byte - jpeg->bytes);
    if (end > jpeg->length || skipped > end)
        return 0;
    for (size_t i = end - skipped; i < end; i++)
        if (jpeg->bytes[i] != 0x00 && jpeg->bytes[i] != 0xff)
            return 0;
    return 1;
}

/* Whether `count` bytes before the place `end` of the file are zeros. */
static int zeros_before(const struct photosearch_jpeg *jpeg, size_t end, size_t count)
{
    if (end < count || end > jpeg->length)
        return 0;
    for (size_t i = end - count; i < end; i++)
        if (jpeg->bytes[i] != 0)
            return 0;
    return 1;
}

/* Bytes without a code were skipped before a marker. */
static void skipped_bytes(struct photosearch_jpeg *jpeg, size_t skipped, int marker)
{
    if (jpeg->info.input_scan_number == 0)
        return; /* between segments of the header */
    if (marker >= JPEG_RST0 && marker <= JPEG_RST0 + 7 &&
        skipped <= MAX_RESTART_PADDING + READ_AHEAD)
        return; /* cameras pad restart intervals */
    if (!skipped_padding(jpeg, skipped))
        fail(jpeg, PHOTOSEARCH_DAMAGED, "its data go on behind the last row of pixels");
    /* Zeros pad the file before its end marker. */
    if (!jpeg->ended) {
        size_t end = (size_t)(jpeg->source.next_input_byte - jpeg->bytes);
        if (zeros_before(jpeg, end - skipped, DECODED_ZEROS))
            fail(jpeg, PHOTOSEARCH_DAMAGED, "zeros stand in place of its last data");
    }
}

/* A warning, which is an error unless it says nothing about pixels. */
static void warned(struct photosearch_jpeg *jpeg)
{
    switch (jpeg->errors.msg_code) {
    case JWRN_ADOBE_XFORM:    /* libjpeg and every viewer take it for YCbCr or YCCK */
    case JWRN_JFIF_MAJOR:     /* a version of the header, which means nothing */
    case JWRN_NOT_SEQUENTIAL: /* parameters of a scan that sequential files don't use */
    case JWRN_BOGUS_ICC:      /* profiles are not read */
        return;
    case JWRN_EXTRANEOUS_DATA:
        skipped_bytes(jpeg, (size_t)jpeg->errors.msg_parm.i[0], jpeg->errors.msg_parm.i[1]);
        return;
    case JWRN_HIT_MARKER:
        fail(jpeg, PHOTOSEARCH_DAMAGED,
             jpeg->ended ? "the file is cut short" : "data of the picture are missing");
        break;
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
        fail(jpeg, PHOTOSEARCH_DAMAGED, "its data contain an invalid code");
        break;
    case JWRN_MUST_RESYNC:
        fail(jpeg, PHOTOSEARCH_DAMAGED, "its restart markers are out of order");
        break;
    default:
        fail_with_message(jpeg, PHOTOSEARCH_DAMAGED);
    }
}

static void emit_message(j_common_ptr info, int level)
{
    struct photosearch_jpeg *jpeg = of(info);
    if (level < 0)
        warned(jpeg);
    else if (jpeg->errors.msg_code == JTRC_RST)
        /* What was read ahead of this marker is padding. Else the next warning would have its sum. */
        jpeg->info.marker->discarded_bytes = 0;
}

static void init_source(j_decompress_ptr info)
{
    (void)info;
}

static boolean fill_input_buffer(j_decompress_ptr info)
{
    struct photosearch_jpeg *jpeg = of((j_common_ptr)info);
    jpeg->ended = 1;
    jpeg->source.next_input_byte = end_of_image;
    jpeg->source.bytes_in_buffer = sizeof end_of_image;
    return TRUE;
}

static void skip_input_data(j_decompress_ptr info, long count)
{
    struct jpeg_source_mgr *source = info->src;
    if (count <= 0)
        return;
    if ((size_t)count > source->bytes_in_buffer) {
        fill_input_buffer(info);
        return;
    }
    source->next_input_byte += count;
    source->bytes_in_buffer -= (size_t)count;
}

static void term_source(j_decompress_ptr info)
{
    (void)info;
}

static void progress_monitor(j_common_ptr info)
{
    struct photosearch_jpeg *jpeg = of(info);
    if (jpeg->info.input_scan_number > MAX_SCANS)
        fail(jpeg, PHOTOSEARCH_DAMAGED, "it has too many scans");
    if (jpeg->stop != NULL && jpeg->stop(jpeg->context))
        fail(jpeg, PHOTOSEARCH_STOPPED, "");
}

static int create(struct photosearch_jpeg *jpeg)
{
    if (setjmp(jpeg->jump) != 0)
        return 0;
    jpeg_create_decompress(&jpeg->info);
    return 1;
}

/* A decoder for these bytes, which must outlive it; NULL where memory is out. */
struct photosearch_jpeg *photosearch_jpeg_new(const uint8_t *bytes, size_t length)
{
    struct photosearch_jpeg *jpeg = calloc(1, sizeof *jpeg);
    if (jpeg == NULL)
        return NULL;
    /*
     * Memory cards leave zeros behind the end marker, or in place of it. libjpeg would take them
     * for codes where data are missing too, and show a picture that is not there. One zero may be
     * the last byte of the data.
     */
    while (length > 1 && bytes[length - 1] == 0 && bytes[length - 2] == 0)
        length--;
    jpeg->bytes = bytes;
    jpeg->length = length;
    jpeg->info.err = jpeg_std_error(&jpeg->errors);
    jpeg->errors.error_exit = error_exit;
    jpeg->errors.emit_message = emit_message;
    jpeg->errors.output_message = output_message;
    jpeg->info.client_data = jpeg;
    if (!create(jpeg)) {
        jpeg_destroy_decompress(&jpeg->info);
        free(jpeg);
        return NULL;
    }
    jpeg->source.next_input_byte = bytes;
    jpeg->source.bytes_in_buffer = length;
    jpeg->source.init_source = init_source;
    jpeg->source.fill_input_buffer = fill_input_buffer;
    jpeg->source.skip_input_data = skip_input_data;
    jpeg->source.resync_to_restart = jpeg_resync_to_restart;
    jpeg->source.term_source = term_source;
    jpeg->info.src = &jpeg->source;
    jpeg->progress.progress_monitor = progress_monitor;
    jpeg->info.progress = &jpeg->progress;
    return jpeg;
}

void photosearch_jpeg_free(struct photosearch_jpeg *jpeg)
{
    /* Releases memory alone, and reports nothing. */
    jpeg_destroy_decompress(&jpeg->info);
    free(jpeg);
}

/* The functions below ask `stop`, with `context`, from time to time whether to end. */
void photosearch_jpeg_stop_by(struct photosearch_jpeg *jpeg, photosearch_stop stop, void *context)
{
    jpeg->stop = stop;
    jpeg->context = context;
}

/* What went wrong in the last call that returned 0. Lives as long as the decoder. */
const struct photosearch_failure *photosearch_jpeg_failure(const struct photosearch_jpeg *jpeg)
{
    return &jpeg->failure;
}

/* Reads up to the first scan. Like the functions below, returns 1, or 0 where it failed. */
int photosearch_jpeg_read_header(struct photosearch_jpeg *jpeg,
                                 struct photosearch_jpeg_header *header)
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    if (setjmp(jpeg->jump) != 0)
        return 0;
    if (jpeg_read_header(info, TRUE) != JPEG_HEADER_OK || jpeg->ended)
        fail(jpeg, PHOTOSEARCH_DAMAGED, "the file is cut short");

    switch (info->jpeg_color_space) {
    case JCS_GRAYSCALE:
        info->out_color_space = JCS_GRAYSCALE;
        header->components = 1;
        break;
    case JCS_YCbCr:
    case JCS_RGB:
        info->out_color_space = JCS_RGB;
        header->components = 3;
        break;
    case JCS_CMYK:
    case JCS_YCCK:
        info->out_color_space = JCS_CMYK;
        header->components = 4;
        break;
    default: {
        char message[64];
        snprintf(message, sizeof message, "%d components", info->num_components);
        fail(jpeg, PHOTOSEARCH_UNSUPPORTED, message);
    }
    }
    header->width = info->image_width;
    header->height = info->image_height;
    header->precision = (uint32_t)info->data_precision;

    jpeg->several_scans = jpeg_has_multiple_scans(info);
    header->memory = 0;
    if (jpeg->several_scans) {
        /* All coefficients are kept, each component's blocks filled up to whole units. */
        for (int i = 0; i < info->num_components; i++) {
            const jpeg_component_info *component = &info->comp_info[i];
            uint64_t across = component->width_in_blocks + (uint64_t)component->h_samp_factor;
            uint64_t down = component->height_in_blocks + (uint64_t)component->v_samp_factor;
            header->memory += across * down * sizeof(JBLOCK);
        }
    }
    return 1;
}

/* The coefficients of the current scan, in `accuracy`, which has 255 for what was never sent. */
static void note_scan(struct photosearch_jpeg *jpeg, uint8_t accuracy[][DCTSIZE2])
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    for (int i = 0; i < info->comps_in_scan; i++) {
        int component = info->cur_comp_info[i]->component_index;
        if (!info->progressive_mode) {
            memset(accuracy[component], 0, DCTSIZE2);
            continue;
        }
        for (int k = info->Ss; k <= info->Se && k < DCTSIZE2; k++)
            accuracy[component][k] = (uint8_t)info->Al;
    }
}

/*
 * Reads all scans, and sees whether they hold every coefficient in full: a file that ends between
 * two scans is decoded without a warning.
 */
static void read_scans(struct photosearch_jpeg *jpeg)
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    uint8_t accuracy[MAX_COMPONENTS][DCTSIZE2];
    int status;
    memset(accuracy, 255, sizeof accuracy);
    note_scan(jpeg, accuracy);
    do {
        progress_monitor((j_common_ptr)info);
        status = jpeg_consume_input(info);
        if (status == JPEG_SUSPENDED)
            fail(jpeg, PHOTOSEARCH_DAMAGED, "the file is cut short");
        if (status == JPEG_REACHED_SOS)
            note_scan(jpeg, accuracy);
    } while (status != JPEG_REACHED_EOI);
    for (int i = 0; i < info->num_components; i++)
        for (int k = 0; k < DCTSIZE2; k++)
            if (accuracy[i][k] != 0)
                fail(jpeg, PHOTOSEARCH_DAMAGED,
                     jpeg->ended ? "the file is cut short" : "scans of the picture are missing");
    jpeg_start_output(info, info->input_scan_number);
}

/*
 * Begins to decode at 1/`divisor` (1, 2, 4, 8) of the size. libjpeg may take `memory` bytes.
 * `width` and `height` become those of the rows.
 */
int photosearch_jpeg_start(struct photosearch_jpeg *jpeg, uint32_t divisor, uint64_t memory,
                           uint32_t *width, uint32_t *height)
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    if (setjmp(jpeg->jump) != 0)
        return 0;
    info->mem->max_memory_to_use = memory < (uint64_t)LONG_MAX ? (long)memory : LONG_MAX;
    info->scale_num = 1;
    info->scale_denom = divisor;
    info->buffered_image = jpeg->several_scans ? TRUE : FALSE;
    jpeg_start_decompress(info);
    if (jpeg->several_scans)
        read_scans(jpeg);
    *width = info->output_width;
    *height = info->output_height;
    return 1;
}

/*
 * Decodes the next `count` rows into `rows`, one after another, each sample a byte, or a machine
 * word of 16 bits where the precision is above 8.
 */
int photosearch_jpeg_read_rows(struct photosearch_jpeg *jpeg, void *rows, uint32_t count)
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    size_t samples = (size_t)info->output_width * (size_t)info->output_components;
    if (setjmp(jpeg->jump) != 0)
        return 0;
    for (uint32_t row = 0; row < count; row++) {
        JDIMENSION read;
        if (info->data_precision <= 8) {
            JSAMPROW to = (JSAMPROW)rows + row * samples;
            read = jpeg_read_scanlines(info, &to, 1);
        } else if (info->data_precision <= 12) {
            J12SAMPROW to = (J12SAMPROW)rows + row * samples;
            read = jpeg12_read_scanlines(info, &to, 1);
        } else {
            J16SAMPROW to = (J16SAMPROW)rows + row * samples;
            read = jpeg16_read_scanlines(info, &to, 1);
        }
        if (read != 1)
            fail(jpeg, PHOTOSEARCH_DAMAGED, "the file is cut short");
    }
    return 1;
}

/* Reads up to the end marker, which may be absent behind the last row. */
int photosearch_jpeg_finish(struct photosearch_jpeg *jpeg)
{
    struct jpeg_decompress_struct *info = &jpeg->info;
    if (setjmp(jpeg->jump) != 0)
        return 0;
    if (jpeg->several_scans)
        jpeg_finish_output(info);
    jpeg_finish_decompress(info);
    /* An arithmetic decoder goes on with zeros where its data end, and can't tell. */
    if (jpeg->ended && info->arith_code)
        fail(jpeg, PHOTOSEARCH_DAMAGED, "the file is cut short");
    return 1;
}
