// Data layouts of AliceO2 (members, their order and class versions), for writing files as its workflows do.
#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>
#include "Rtypes.h"
#include "Math/Point3D.h"
namespace o2 {
struct InteractionRecord { uint16_t bc = 0; uint32_t orbit = 0; ClassDefNV(InteractionRecord, 3); };
namespace dataformats {
template <int NBITS> struct RangeRefComp { uint32_t mData = 0; ClassDefNV(RangeRefComp, 1); };
template <typename A, typename B> struct RangeReference { A mFirstEntry; B mEntries; ClassDefNV(RangeReference, 1); };
template <typename T> struct TimeStamp { T mTimeStamp; ClassDefNV(TimeStamp, 1); };
template <typename T, typename E> struct TimeStampWithError : TimeStamp<T> { E mTimeStampError; ClassDefNV(TimeStampWithError, 1); };
struct VertexBase { ROOT::Math::PositionVector3D<ROOT::Math::Cartesian3D<float>, ROOT::Math::DefaultCoordinateSystemTag> mPos; std::array<float, 6> mCov{}; ClassDefNV(VertexBase, 1); };
template <typename S> struct Vertex : VertexBase { Vertex() {} float mChi2 = 0; unsigned short mNContributors = 0; unsigned short mBits = 0; S mTimeStamp; ClassDefNV(Vertex, 3); };
struct PrimaryVertex : Vertex<TimeStampWithError<float, float>> { PrimaryVertex() {} o2::InteractionRecord mIRMin, mIRMax; float mTMAD = -1, mZMAD = -1; ClassDefNV(PrimaryVertex, 2); };
}
namespace track {
struct PID { uint8_t mID = 2; ClassDefNV(PID, 2); };
template <typename T> struct TrackParametrization { T mX = 0, mAlpha = 0; T mP[5] = {}; char mAbsCharge = 1; PID mPID; uint16_t mUserField = 0; ClassDefNV(TrackParametrization, 3); };
template <typename T> struct TrackParametrizationWithError : TrackParametrization<T> { T mC[15] = {}; ClassDefNV(TrackParametrizationWithError, 2); };
}
namespace its {
struct TrackITS : o2::track::TrackParametrizationWithError<float> { TrackITS() {}
  o2::track::TrackParametrizationWithError<float> mParamOut;
  o2::dataformats::RangeRefComp<4> mClusRef; float mChi2 = 0; uint32_t mPattern = 0; unsigned int mClusterSizes = 0;
  ClassDefNV(TrackITS, 6);
};
}
namespace itsmft {
struct ROFRecord { o2::InteractionRecord mBCData; o2::dataformats::RangeReference<int, int> mROFEntry; unsigned int mROFrame = 0; unsigned int mBits = 0; ClassDefNV(ROFRecord, 3); };
struct CompCluster { unsigned int mData = 0; ClassDefNV(CompCluster, 2); };
struct CompClusterExt : CompCluster { unsigned short mChipID = 0; ClassDefNV(CompClusterExt, 1); };
struct ClusterPattern { std::array<unsigned char, 2050> mBitmap{}; ClassDefNV(ClusterPattern, 1); };
struct GroupStruct { unsigned long mHash = 0; float mErrX = 0, mErrZ = 0, mErr2X = 0, mErr2Z = 0, mXCOG = 0, mZCOG = 0; int mNpixels = 0; ClusterPattern mPattern; double mFrequency = 0; bool mIsGroup = false; ClassDefNV(GroupStruct, 3); };
struct TopologyDictionary { std::unordered_map<unsigned long, int> mCommonMap; std::unordered_map<int, int> mGroupMap; int mSmallTopologiesLUT[8 * 255 + 1]; std::vector<GroupStruct> mVectorOfIDs; ClassDefNV(TopologyDictionary, 4); };
}
}
#ifdef __CLING__
#pragma link C++ class o2::InteractionRecord+;
#pragma link C++ class o2::dataformats::RangeRefComp<4>+;
#pragma link C++ class o2::dataformats::RangeReference<int, int>+;
#pragma link C++ class o2::dataformats::TimeStamp<int>+;
#pragma link C++ class o2::dataformats::TimeStamp<float>+;
#pragma link C++ class o2::dataformats::TimeStampWithError<float, float>+;
#pragma link C++ class o2::dataformats::VertexBase+;
#pragma link C++ class o2::dataformats::Vertex<o2::dataformats::TimeStamp<int>>+;
#pragma link C++ class o2::dataformats::Vertex<o2::dataformats::TimeStampWithError<float, float>>+;
#pragma link C++ class o2::dataformats::PrimaryVertex+;
#pragma link C++ class o2::track::PID+;
#pragma link C++ class o2::track::TrackParametrization<float>+;
#pragma link C++ class o2::track::TrackParametrizationWithError<float>+;
#pragma link C++ class o2::its::TrackITS+;
#pragma link C++ class o2::itsmft::ROFRecord+;
#pragma link C++ class o2::itsmft::CompCluster+;
#pragma link C++ class o2::itsmft::CompClusterExt+;
#pragma link C++ class o2::itsmft::ClusterPattern+;
#pragma link C++ class o2::itsmft::GroupStruct+;
#pragma link C++ class o2::itsmft::TopologyDictionary+;
#pragma link C++ class std::vector<o2::its::TrackITS>+;
#pragma link C++ class std::vector<o2::itsmft::ROFRecord>+;
#pragma link C++ class std::vector<o2::itsmft::CompClusterExt>+;
#pragma link C++ class std::vector<o2::itsmft::GroupStruct>+;
#pragma link C++ class std::vector<o2::dataformats::PrimaryVertex>+;
#pragma link C++ class std::vector<o2::dataformats::Vertex<o2::dataformats::TimeStamp<int>>>+;
#endif
